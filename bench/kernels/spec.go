package main

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// spec is a kernel and the weight to try it on.
type spec struct {
	k        runtime.Kernel
	sparsity float64
}

// parse reads layout/type[/sparsity].
func parse(name string) (spec, error) {
	f := strings.Split(name, "/")
	s := spec{k: runtime.Kernel{Op: model.OpLinear, Act: sparse.F32}}
	if len(f) < 2 || len(f) > 3 {
		return s, fmt.Errorf("kernels: %q: want layout/type or layout/type/sparsity", name)
	}
	var err error
	if s.k.Layout, err = sparse.ParseLayout(f[0]); err != nil {
		return s, err
	}
	if s.k.Weight, err = sparse.ParseDType(f[1]); err != nil {
		return s, err
	}
	if s.k.Weight.Quantised() {
		s.k.Act = sparse.Int8
	}
	if s.k.Layout == sparse.LayoutNM24 {
		s.sparsity = 0.5
	}
	if len(f) == 3 {
		if s.sparsity, err = strconv.ParseFloat(f[2], 64); err != nil || s.sparsity < 0 || s.sparsity > 1 {
			return s, fmt.Errorf("kernels: %q: want a sparsity of 0..1", name)
		}
	}
	return s, nil
}

// group is the columns per scale: int8 has one a row.
func (s spec) group(int4 int) int {
	if s.k.Weight == sparse.Int4 {
		return int4
	}
	return 0
}

// weight is random with the sparsity asked for, 2:4 where the layout is.
func (s spec) weight(rows, cols int) sparse.Matrix {
	rng := rand.New(rand.NewPCG(3, 4))
	f := make([]float32, rows*cols)
	for i := range f {
		x := float32(rng.IntN(255)-127) / 1000
		switch {
		case s.k.Layout == sparse.LayoutNM24:
			if i%2 == 0 {
				j := i&^3 | int(rng.Uint32()&1) | i&2
				f[j] = x
			}
		case s.sparsity == 0 || rng.Float64() >= s.sparsity:
			f[i] = x
		}
	}
	return sparse.NewDense(rows, cols, f)
}
