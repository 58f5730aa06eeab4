//go:build cuda

package cuda

import (
	"embed"
	"os"
	"strings"
)

// The kernels: PTX that the simulator ran, and cubins that ptxas made of it.
//
//go:embed build/kernels_80.ptx build/kernels_80.sm_*.cubin build/kernels_89.ptx build/kernels_89.sm_*.cubin
var kernels embed.FS

func images() ([]Image, error) {
	byStem := map[string]*Image{}
	entries, err := kernels.ReadDir("build")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		data, err := kernels.ReadFile("build/" + e.Name())
		if err != nil {
			return nil, err
		}
		stem, rest, _ := strings.Cut(e.Name(), ".")
		im := byStem[stem]
		if im == nil {
			im = &Image{Cubins: map[string][]byte{}, MinCC: 80}
			if stem == "kernels_89" {
				im.MinCC, im.Extra = 89, true
			}
			byStem[stem] = im
		}
		if rest == "ptx" {
			im.PTX = data
		} else {
			im.Cubins[strings.TrimSuffix(strings.TrimPrefix(rest, "sm_"), ".cubin")] = data
		}
	}
	return []Image{*byStem["kernels_80"], *byStem["kernels_89"]}, nil
}

// Open opens the n-th GPU. SPARSERUN_CUDA_PTX=1 gives the driver PTX instead of a
// cubin: slower to start, for architectures newer than the binary.
func Open(n int) (*Backend, error) {
	ims, err := images()
	if err != nil {
		return nil, err
	}
	if os.Getenv("SPARSERUN_CUDA_PTX") == "1" {
		for i := range ims {
			ims[i].Cubins = nil
		}
	}
	return New(func() (Driver, error) { return openDriver(n) }, ims)
}
