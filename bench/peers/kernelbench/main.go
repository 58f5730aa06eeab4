// Command kernelbench runs the CPU backend's Linear kernels for a benchmark in
// another language: one JSON request a line on stdin, one answer a line on stdout.
//
//	{"cmd":"open","rows":4096,"cols":4096,"batch":1,"threads":1,"kernels":["nm24/f16"],"cold_mib":160}
//	  -> {"bytes":[18874368],"isa":"avx512"}
//	{"cmd":"time","kernel":0,"ms":20}  -> {"ns":812345.6}
//
// A weight has copies enough to outgrow the caches, and each run takes the next.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
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
	Kernels []string `json:"kernels"` // layout/type/sparsity
	Cold    int      `json:"cold_mib"`
	Kernel  int      `json:"kernel"`
	Ms      float64  `json:"ms"`
}

// weight is a kernel's copies.
type weight struct {
	copies []*cpu.Linear
	next   int
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
	var ws []weight
	var x []float32
	enc := json.NewEncoder(out)
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("kernelbench: %w", err)
		}
		switch r.Cmd {
		case "open":
			for _, w := range ws {
				for _, l := range w.copies {
					l.Close()
				}
			}
			ws = nil
			rng := rand.New(rand.NewPCG(1, 2))
			x = make([]float32, r.Batch*r.Cols)
			for i := range x {
				x[i] = float32(rng.NormFloat64())
			}
			be := cpu.New(cpu.Threads(r.Threads))
			var bytes []int64
			for _, k := range r.Kernels {
				w, n, err := open(be, r, k, x)
				if err != nil {
					return err
				}
				ws, bytes = append(ws, w), append(bytes, n)
			}
			if err := enc.Encode(map[string]any{"bytes": bytes, "isa": linalg.ISA().String()}); err != nil {
				return err
			}
		case "time":
			if r.Kernel < 0 || r.Kernel >= len(ws) {
				return fmt.Errorf("kernelbench: kernel %d of %d", r.Kernel, len(ws))
			}
			w := &ws[r.Kernel]
			n, start := 0, time.Now()
			for n < 2 || time.Since(start).Seconds()*1e3 < r.Ms {
				w.copies[w.next%len(w.copies)].Run(x)
				w.next++
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

func open(be *cpu.Backend, r request, name string, x []float32) (weight, int64, error) {
	f := strings.Split(name, "/")
	var w weight
	if len(f) != 3 {
		return w, 0, fmt.Errorf("kernelbench: %q: want layout/type/sparsity", name)
	}
	k := runtime.Kernel{Op: model.OpLinear, Act: sparse.F32}
	var err error
	if k.Layout, err = sparse.ParseLayout(f[0]); err != nil {
		return w, 0, err
	}
	if k.Weight, err = sparse.ParseDType(f[1]); err != nil {
		return w, 0, err
	}
	sparsity, err := strconv.ParseFloat(f[2], 64)
	if err != nil {
		return w, 0, fmt.Errorf("kernelbench: %q: %w", name, err)
	}
	group := 0
	if k.Weight.Quantised() {
		k.Act = sparse.Int8
	}
	if k.Weight == sparse.Int4 {
		group = 64
	}
	m := random(r.Rows, r.Cols, sparsity, k.Layout == sparse.LayoutNM24)
	var bytes int64
	for held := int64(0); held == 0 || held < int64(r.Cold)<<20; held += bytes {
		l, err := be.Linear(m, k, group, r.Batch)
		if err != nil {
			return w, 0, err
		}
		l.Run(x) // touches the memory of its results
		w.copies = append(w.copies, l)
		bytes = l.Bytes().Total()
	}
	return w, bytes, nil
}

// random is a weight of normal numbers, 2:4 or with a share sparsity of zeros.
func random(rows, cols int, sparsity float64, nm24 bool) *sparse.Dense {
	rng := rand.New(rand.NewPCG(3, 4))
	f := make([]float32, rows*cols)
	for i := range f {
		switch {
		case nm24:
			if i%2 == 0 {
				f[i&^1|int(rng.Uint32()&1)] = float32(rng.NormFloat64()) / 64
			}
		case sparsity == 0 || rng.Float64() >= sparsity:
			f[i] = float32(rng.NormFloat64()) / 64
		}
	}
	return sparse.NewDense(rows, cols, f)
}
