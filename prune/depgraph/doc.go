// Package depgraph removes structure - channels, neurons, attention heads, whole residual blocks
// - from a tensor graph (an ONNX file, or a plain network through train.Tensors), and gives a
// smaller ordinary graph.
//
//	p, err := depgraph.New(g, depgraph.Options{Ratio: 0.3, RoundTo: 8})
//	small, err := p.Small()       // what loader.Save writes
//	same, err := p.Masked()       // the dense network with what was removed at zero: equal outputs
//	fmt.Println(p.Report())
//
// # Dependencies
//
// One number of one axis of one tensor - a channel of a value, a row of a weight - is an element.
// Every op says which elements of what it reads, writes and holds must go together: both sides of an
// Add, a channel and its batch norm, a channel and its height times width columns behind a Flatten,
// a head and its rows of q, k, v and columns of the output projection. The closure (Fang et al. 2023,
// "DepGraph") makes the elements into units that can be removed; units with members in the same
// places are a group, in which they compete. An element that an op cannot lose without changing what the
// others compute is pinned, and its unit with it: the network's inputs and outputs, axes that softmax or a
// layer norm runs over, dimensions that a shape is computed from, all of an op this package does not know.
//
// # Equal outputs
//
// What is left computes what the masked network computes, to rounding. The one exception is asked for by
// Options.Norms: layer norms lose columns, and their statistics are of those that are left.
package depgraph

import "errors"

// Errors of this package; every error wraps one of them.
var (
	ErrGraph  = errors.New("graph cannot be pruned by its structure")
	ErrOption = errors.New("invalid setting of structured pruning")
)
