// Command kernelbench runs the CPU backend's Linear kernels for a benchmark in
// another language: one JSON request a line on stdin, one answer a line on stdout.
//
//	{"cmd":"open","rows":4096,"cols":4096,"batch":128,"threads":1,"kernels":["nm24/f16/0.5"],"cold_mib":160}
//	  -> {"bytes":[18874368],"isa":"avx512"}
//	{"cmd":"time","kernel":0,"batch":1,"ms":20}  -> {"ns":812345.6}
//
// batch is the largest that is asked for later. A weight has copies enough to outgrow the caches, and each run takes the next.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
)

type request struct {
	Cmd     string   `json:"cmd"`
	Rows    int      `json:"rows"`
	Cols    int      `json:"cols"`
	Batch   int      `json:"batch"`
	Threads int      `json:"threads"`
	Kernels []string `json:"kernels"` // layout/type/sparsity, with a type as "int8:32" where scales are of groups
	Cold    int      `json:"cold_mib"`
	Kernel  int      `json:"kernel"`
	Ms      float64  `json:"ms"`
}

func main() {
	log.SetFlags(0)
	if err := linalg.CheckISA(); err != nil {
		log.Fatal(err)
	}
	if err := serve(os.Stdin, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func serve(in io.Reader, out io.Writer) error {
	var ws []*cpu.Linear
	var x []float32
	var cols int
	enc := json.NewEncoder(out)
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("kernelbench: %w", err)
		}
		switch r.Cmd {
		case "open":
			for _, l := range ws {
				l.Close()
			}
			ws = nil
			rng := rand.New(rand.NewPCG(1, 2))
			x = make([]float32, r.Batch*r.Cols)
			for i := range x {
				x[i] = float32(rng.NormFloat64())
			}
			be := cpu.New(cpu.Threads(r.Threads))
			var bytes []int64
			var err error
			if ws, err = openAll(be, r); err != nil {
				return err
			}
			for _, l := range ws {
				l.Run(x) // touches the memory of its results
				bytes = append(bytes, l.Bytes().Total())
			}
			cols = r.Cols
			if err := enc.Encode(map[string]any{"bytes": bytes, "isa": linalg.ISA().String()}); err != nil {
				return err
			}
		case "time":
			if r.Kernel < 0 || r.Kernel >= len(ws) || r.Batch < 1 || r.Batch*cols > len(x) {
				return fmt.Errorf("kernelbench: kernel %d of %d, batch %d", r.Kernel, len(ws), r.Batch)
			}
			n, start := 0, time.Now()
			for n < 1 || time.Since(start).Seconds()*1e3 < r.Ms {
				ws[r.Kernel].Run(x[:r.Batch*cols])
				n++
			}
			if err := enc.Encode(map[string]any{"ns": float64(time.Since(start).Nanoseconds()) / float64(n)}); err != nil {
				return err
			}
		default:
			return fmt.Errorf("kernelbench: command %q", r.Cmd)
		}
	}
	return lines.Err()
}

// openAll packs every kernel's weight, two at a time: packing is not what is timed.
func openAll(be *cpu.Backend, r request) ([]*cpu.Linear, error) {
	ws, errs := make([]*cpu.Linear, len(r.Kernels)), make([]error, len(r.Kernels))
	var next atomic.Int32
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(ws); i = int(next.Add(1)) - 1 {
				ws[i], errs[i] = open(be, r, r.Kernels[i])
			}
		})
	}
	wg.Wait()
	return ws, errors.Join(errs...)
}

func open(be *cpu.Backend, r request, name string) (*cpu.Linear, error) {
	f := strings.Split(name, "/")
	if len(f) != 3 {
		return nil, fmt.Errorf("kernelbench: %q: want layout/type/sparsity", name)
	}
	k := runtime.Kernel{Op: model.OpLinear}
	var err error
	if k.Layout, err = sparse.ParseLayout(f[0]); err != nil {
		return nil, err
	}
	typ, columns, grouped := strings.Cut(f[1], ":")
	if k.Weight, err = sparse.ParseDType(typ); err != nil {
		return nil, err
	}
	sparsity, err := strconv.ParseFloat(f[2], 64)
	if err != nil {
		return nil, fmt.Errorf("kernelbench: %q: %w", name, err)
	}
	k.Act = runtime.ActType(k.Weight)
	group := 0
	if k.Weight == sparse.Int4 {
		group = 64
	}
	if grouped {
		if group, err = strconv.Atoi(columns); err != nil {
			return nil, fmt.Errorf("kernelbench: %q: %w", name, err)
		}
	}
	l, err := be.Linear(cpu.Noise(r.Rows, r.Cols, 1-sparsity, k.Layout == sparse.LayoutNM24), k, group, r.Batch)
	if err != nil {
		return nil, err
	}
	return l, l.Cold(int64(r.Cold)<<20, 0)
}
