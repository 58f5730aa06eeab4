package main

import (
	"errors"
	"fmt"
	"sync"

	"github.com/sparserun/sparserun/cuda"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
)

// engine are the flags that say how a model is executed.
type engine struct {
	Backend string `enum:"auto,cpu,cuda" default:"auto" help:"auto, cpu or cuda; auto takes a GPU where there is one."`
	DType   string `name:"dtype" enum:"f32,f16,bf16,int8,int4" default:"f16" help:"Type that weights run in: f32, f16, bf16, int8, int4."`
	Sparse  string `default:"auto" help:"auto: what is fastest here; off: dense; or a layout: nm24, bitmask, csr."`
	Context int    `default:"0" help:"Tokens of KV cache, rounded up to whole pages of 32 (default: the model's, at most 8192)."`
	Group   int    `default:"0" help:"Columns per scale of int4 and int8 (default: as stored, else 64 and the whole row)."`
	fileFlags
}

// fileFlags are the flags that say how a file is read.
type fileFlags struct {
	Mmap           bool `help:"Map the file instead of reading it."`
	AllowNonFinite bool `help:"Take weights that are NaN or infinite."`
}

func (f *fileFlags) loadOptions() []loader.Option {
	var o []loader.Option
	if f.Mmap {
		o = append(o, loader.WithMmap())
	}
	if f.AllowNonFinite {
		o = append(o, loader.AllowNonFinite())
	}
	return o
}

// options turns the flags into runtime options; mode overrides --sparse.
func (e *engine) options(mode string) (runtime.Options, error) {
	t, err := sparse.ParseDType(e.DType)
	if err != nil {
		return runtime.Options{}, usageError{err}
	}
	o := runtime.Options{DType: t, Group: e.Group, Context: e.Context}
	switch mode {
	case "auto":
	case "off", "dense":
		o.Sparse = runtime.SparseOff
	default:
		if o.Layout, err = sparse.ParseLayout(mode); err != nil {
			return o, usagef("--sparse: want auto, off, nm24, bitmask or csr, got %q", mode)
		}
		o.Sparse = runtime.SparseForce
	}
	return o, nil
}

// gpuFirst is auto's backend where there is a GPU: networks that are no language models run on the CPU.
type gpuFirst struct {
	*cuda.Backend
	cpu  *cpu.Backend
	said func()
}

// Tensors implements runtime.TensorsElsewhere.
func (b gpuFirst) Tensors() runtime.Backend {
	b.said()
	return b.cpu
}

// Close ends both.
func (b gpuFirst) Close() error { return errors.Join(b.Backend.Close(), b.cpu.Close()) }

// backend opens what --backend names.
func (e *engine) backend(g *globals) (runtime.Backend, error) {
	if e.Backend != "cpu" {
		b, err := cuda.Open(0)
		if err == nil {
			if b.Info().Simulated {
				g.logf("%s: its times are no speeds", b.Info().Name)
			}
			if e.Backend == "cuda" {
				return b, nil
			}
			return gpuFirst{b, cpu.New(cpu.Threads(g.Threads)), sync.OnceFunc(func() { g.logf("the network runs on the CPU: on a GPU only language models do") })}, nil
		}
		if e.Backend == "cuda" {
			return nil, err
		}
		if !errors.Is(err, cuda.ErrNotBuilt) {
			g.logf("no GPU is used: %v", err)
		}
	}
	return cpu.New(cpu.Threads(g.Threads)), nil
}

// session opens a model and compiles it.
func (e *engine) session(g *globals, b runtime.Backend, path, mode string, adjust func(*runtime.Options)) (*runtime.Session, error) {
	gr, err := loader.Open(path, e.loadOptions()...)
	if err != nil {
		return nil, err
	}
	defer gr.Close() // the session holds its own packed weights
	return e.compile(gr, b, mode, adjust)
}

func (e *engine) compile(gr *model.Graph, b runtime.Backend, mode string, adjust func(*runtime.Options)) (*runtime.Session, error) {
	o, err := e.options(mode)
	if err != nil {
		return nil, err
	}
	if adjust != nil {
		adjust(&o)
	}
	s, err := runtime.New(gr, b, runtime.WithOptions(o))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", gr.Source.Path, err)
	}
	return s, nil
}

// meter reads energy: the GPU's where the backend has one, else the CPU's.
type meter struct {
	cpu   *runtime.Energy
	gpu   interface{ Joules() (float64, bool) }
	start float64
}

func openMeter(b runtime.Backend) *meter {
	m := &meter{cpu: runtime.OpenEnergy()}
	if g, ok := b.(interface{ Joules() (float64, bool) }); ok {
		m.gpu = g
		m.start, _ = g.Joules()
	}
	return m
}

// joules since the meter was opened, with where the figure comes from; "" where
// nothing can be read.
func (m *meter) joules() (j float64, source string) {
	if m.gpu != nil {
		if j, ok := m.gpu.Joules(); ok {
			return j - m.start, "nvml"
		}
		return 0, ""
	}
	if j, ok := m.cpu.Joules(); ok {
		return j, "rapl"
	}
	return 0, ""
}
