// Package experiment repeats published results of pruning, each as a function that trains
// what it compares, keeps what it has done in a Journal, so that a run that was stopped goes on,
// and returns numbers with their definition.
package experiment

import "errors"

// ErrOption: an experiment was asked for that does not exist, or settings without meaning.
var ErrOption = errors.New("invalid setting of an experiment")
