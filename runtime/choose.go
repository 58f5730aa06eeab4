package runtime

import (
	"time"

	"github.com/sparserun/sparserun/sparse"
)

// Choice says which form a weight runs in and why.
type Choice struct {
	Name       string      `json:"name"` // of the weight
	Rows       int         `json:"rows"`
	Cols       int         `json:"cols"`
	Sparsity   float64     `json:"sparsity"`
	Kernel     Kernel      `json:"-"`
	Layout     string      `json:"layout"`
	DType      string      `json:"dtype"`
	Reason     string      `json:"reason"`
	Candidates []Candidate `json:"candidates,omitempty"`
	Bytes      int64       `json:"bytes"` // packed
}

// Candidate is a form the planner could have chosen, with its measured times.
type Candidate struct {
	Layout  sparse.Layout `json:"layout"`
	Decode  time.Duration `json:"decode_ns"`
	Prefill time.Duration `json:"prefill_ns"`
}
