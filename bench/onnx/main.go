//go:build unix

// Command onnx times ONNX networks for compare.py, which sends one line a
// measurement and reads one back, so that this and onnxruntime take turns:
//
//	FILE LAYOUT BATCH REPEATS  ->  nanoseconds of one run: the least of the repeats
//	                               by the clock, and the mean of the processor's time
//
// LAYOUT is dense, auto, csr, bitmask or nm24. One thread, float32.
package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"time"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
)

type key struct{ file, layout string }

func main() {
	sessions := map[key]*runtime.Session{}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var k key
		var batch, repeats int
		if _, err := fmt.Sscan(in.Text(), &k.file, &k.layout, &batch, &repeats); err != nil {
			fail(err)
		}
		s := sessions[k]
		if s == nil {
			var err error
			if s, err = open(k); err != nil {
				fail(err)
			}
			sessions[k] = s
		}
		wall, used, err := measure(s, batch, repeats)
		if err != nil {
			fail(err)
		}
		fmt.Println(wall.Nanoseconds(), used.Nanoseconds())
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func open(k key) (*runtime.Session, error) {
	g, err := loader.Open(k.file)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	opts := []runtime.Option{}
	switch k.layout {
	case "auto":
	case "dense":
		opts = append(opts, runtime.WithDense())
	default:
		l, err := sparse.ParseLayout(k.layout)
		if err != nil {
			return nil, err
		}
		opts = append(opts, runtime.WithLayout(l))
	}
	s, err := runtime.New(g, cpu.New(cpu.Threads(1)), opts...)
	if err == nil && k.layout == "auto" {
		for _, c := range s.Explain() {
			fmt.Fprintf(os.Stderr, "%s [%d %d] %.1f %% zeros: %s (%s)\n", c.Name, c.Rows, c.Cols, 100*c.Sparsity, c.Layout, c.Reason)
		}
	}
	return s, err
}

// processor is the time that all threads of the process have run.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		fail(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func measure(s *runtime.Session, batch, repeats int) (wall, used time.Duration, err error) {
	g := s.Graph()
	v := g.Values[g.Inputs[0]]
	shape := append([]int{batch}, v.Shape[1:]...)
	x, err := model.NewTensor(model.ElemF32, shape...)
	if err != nil {
		return 0, 0, err
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range x.Data.([]float32) {
		x.Data.([]float32)[i] = rng.Float32()
	}
	wall = 1 << 62
	before := processor()
	for range repeats {
		start := time.Now()
		if _, err := s.RunTensors(context.Background(), map[string]*model.Tensor{v.Name: x}); err != nil {
			return 0, 0, err
		}
		wall = min(wall, time.Since(start))
	}
	return wall, (processor() - before) / time.Duration(repeats), nil
}
