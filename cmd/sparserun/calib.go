package main

import (
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/prune"
)

// calibFlags choose the data that calibrated methods see.
type calibFlags struct{}

const methodHelp = "magnitude or random."

func (c *calibFlags) method(_ *globals, _ *model.Graph, name string, seed uint64) (prune.Method, error) {
	switch name {
	case "magnitude":
		return prune.Magnitude{}, nil
	case "random":
		return prune.Random{Seed: seed}, nil
	}
	return nil, usagef("--method: want magnitude or random, got %q", name)
}
