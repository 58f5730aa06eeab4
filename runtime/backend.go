// Package runtime turns a model.Graph into a Plan, has a Backend compile it, and
// runs it: Session for inference and generation, Counters for what it cost.
//
// The seam to a backend is the whole plan, not the op: Compile gets steps, arena
// and state once and returns a Program. This package imports no backend; the
// caller names one:
//
//	s, err := runtime.New(g, cpu.New())
package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// Errors of this package; every error wraps one of them.
var (
	ErrShape       = errors.New("shape mismatch")
	ErrUnsupported = errors.New("not supported by this backend")
	ErrContext     = errors.New("context length exceeded")
	ErrClosed      = errors.New("closed")
	ErrOption      = errors.New("option out of range")
	ErrMemory      = errors.New("memory limit exceeded")
	ErrInput       = errors.New("input value out of range") // token, position, page or row
)

// Kernel is the key of every kernel table.
type Kernel struct {
	Op     model.Op
	Layout sparse.Layout
	Weight sparse.DType // type of the stored weights; 0 where the op has none
	Act    sparse.DType // type that activations are multiplied in: F32, or Int8
	Group  int          // columns per scale of Int8 and Int4 (Plan.Group); 0: the backend's default
	// Window and Stride are those of a Conv with a square kernel: what is read, and how
	// (3x3 of stride 1 can do with fewer products), changes with them. 0: 1x1, or not square.
	Window, Stride int
}

// String is "Linear nm24 f16 x f32", "Linear nm24 int4 (groups of 32) x int8",
// "Conv 3x3/1 dense f32 x f32".
func (k Kernel) String() string {
	if k.Weight == 0 {
		return string(k.Op)
	}
	group := ""
	if k.Group > 0 {
		group = fmt.Sprintf(" (groups of %d)", k.Group)
	}
	op := string(k.Op)
	if k.Window > 0 {
		op = fmt.Sprintf("%s %dx%d/%d", op, k.Window, k.Window, k.Stride)
	}
	return fmt.Sprintf("%s %v %v%s x %v", op, k.Layout, k.Weight, group, k.Act)
}

// View is a matrix that crosses the seam: float32 or int32, row-major.
type View struct {
	Rows, Cols int
	F32        []float32
	I32        []int32
}

// Unwanted reports whether v asks for no result: an output of a Run other than the
// first may be left out so.
func (v View) Unwanted() bool { return v.Rows == 0 && v.F32 == nil }

// Backend compiles plans for one kind of hardware.
type Backend interface {
	Name() string
	// Has reports whether the backend has a kernel; the planner asks before it chooses.
	Has(Kernel) bool
	// Compile repacks the plan's weights for the hardware. The plan and its
	// graph's weights are only read.
	Compile(*Plan) (Program, error)
	Close() error
}

// Timer is a Backend that can measure its Linear kernels on this machine; the
// planner uses it where it is there.
type Timer interface {
	// Machine names what a measurement depends on: CPU model, threads, instruction
	// set, version. Measurements are cached under it. Empty: times mean nothing here
	// (a simulator), and the planner does not ask for any.
	Machine() string
	// Time is the time of one Linear of rows x cols weights, a share
	// density of them nonzero, over batch rows of activations, with weights that
	// come from memory, not from a cache.
	Time(ctx context.Context, k Kernel, rows, cols int, density float64, batch int) (time.Duration, error)
}

// Program is a compiled plan with its state (the KV cache). Run executes one
// batch at a time: concurrent calls wait for one another.
type Program interface {
	// Run reads the plan's inputs and fills out, whose views give the expected
	// shape. A language model's inputs are model.InTokens and following.
	Run(ctx context.Context, in, out []View, c *Counters) error
	// Memory is what the program holds.
	Memory() Memory
	// Bytes is the packed size of each Linear step's weight, by step index.
	Bytes(step int) sparse.Bytes
	Close() error
}

// Memory is what a Program holds, in bytes.
type Memory struct {
	Weights   sparse.Bytes `json:"weights"`
	KVCache   int64        `json:"kv_cache"`  // reserved for the whole context
	KVUsed    int64        `json:"kv_used"`   // written at least once
	Workspace int64        `json:"workspace"` // arena and scratch
	Device    int64        `json:"device"`    // of the above, on an accelerator
}
