package prune

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// LayerReport is what became of one matrix.
type LayerReport struct {
	Name     string  `json:"name"`
	Rows     int     `json:"rows"`
	Cols     int     `json:"cols"`
	Sparsity float64 `json:"sparsity"` // zeros over all weights, as stored
	// Error is relative: without calibration |W-W'| / |W| (Frobenius), with it
	// |(W-W')X| / |WX| over the calibration inputs X.
	Error   float64       `json:"error"`
	Bytes   int64         `json:"bytes"` // as stored
	Layout  sparse.Layout `json:"layout"`
	DType   sparse.DType  `json:"dtype"`
	Damping float64       `json:"damping,omitempty"` // of the Gram matrix, where one was factorised
}

// Size is the memory of a graph's weights.
type Size struct {
	Bytes  int64 `json:"bytes"`        // all weights
	Pruned int64 `json:"pruned_bytes"` // the matrices that were pruned
	F16    int64 `json:"f16_bytes"`    // those matrices, dense in 16 bits
}

// Calibration says which data a method saw.
type Calibration struct {
	SHA256  string `json:"sha256"` // of the ids as little-endian uint32
	Tokens  int    `json:"tokens"`
	Windows int    `json:"windows"`
	Window  int    `json:"window"`
	Seed    uint64 `json:"seed"`
	Text    string `json:"text_sha256,omitempty"` // of the file of text
}

// recipe says all of it in a file's metadata.
func (c *Calibration) recipe(kv map[string]string) {
	c.data(kv)
	kv["prune.calibration.seed"] = strconv.FormatUint(c.Seed, 10)
	if c.Text != "" {
		kv["prune.calibration.text_sha256"] = c.Text
	}
}

// data is the part of it that decides the result.
func (c *Calibration) data(kv map[string]string) {
	kv["prune.calibration.sha256"] = c.SHA256
	kv["prune.calibration.windows"] = strconv.Itoa(c.Windows)
	kv["prune.calibration.window"] = strconv.Itoa(c.Window)
}

// Report is the outcome of a run.
type Report struct {
	Method   string  `json:"method"`
	Pattern  string  `json:"pattern"`
	Sparsity float64 `json:"sparsity"` // over the pruned matrices
	Seconds  float64 `json:"seconds"`
	// BitsPerWeight of the pruned matrices, with masks and scales.
	BitsPerWeight float64       `json:"bits_per_weight"`
	Before        Size          `json:"before"`
	After         Size          `json:"after"`
	Layers        []LayerReport `json:"layers"`
	Calibration   *Calibration  `json:"calibration,omitempty"`
	PeakBytes     int64         `json:"peak_bytes,omitempty"` // working memory of the method, by its own account
	// Recipe goes into the file's metadata: what a rerun and Verify need.
	Recipe map[string]string `json:"recipe"`
}

// String is one line for a log.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %.2f%% of %d matrices zero, %d -> %d bytes, %.1f s",
		r.Method, r.Pattern, 100*r.Sparsity, len(r.Layers), r.Before.Bytes, r.After.Bytes, r.Seconds)
	return b.String()
}

// size sums up the weights of a graph.
func size(g *model.Graph, targets []*model.Weight) Size {
	s := Size{Bytes: g.WeightBytes().Total()}
	for _, w := range targets {
		r, c := w.Data.Dims()
		s.Pruned += w.Data.Bytes().Total()
		s.F16 += 2 * int64(r) * int64(c)
	}
	return s
}
