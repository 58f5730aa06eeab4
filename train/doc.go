// Package train fits networks, under masks if there are any: forward and backward over a
// model.Graph, losses, optimisers, schedules and the loop around them.
//
//	net, err := train.New(g, linalg.NewPool(2))     // reads the weights of g into float32
//	net.KeepZeros()                                 // pruned weights stay pruned
//	rep, err := train.Fit(ctx, net, data, train.Options{...}, nil)
//	err = net.Store()                               // and back into g
//
// A mask holds exactly: gradients of pruned weights are cleared before a step and the
// weights after it, so that momentum cannot refill a zero.
//
// Results depend on the seed and on the kernels in use (linalg.ISA), never on the number of
// threads: work is split over outputs, and sums over a batch run in a fixed order.
package train

import "errors"

// Errors of this package; every error wraps one of them.
var (
	ErrGraph  = errors.New("graph cannot be trained")
	ErrData   = errors.New("invalid training data")
	ErrOption = errors.New("invalid training option")
	ErrNaN    = errors.New("loss is not finite")
)
