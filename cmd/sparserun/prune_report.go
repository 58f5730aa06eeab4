package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// usage is what a pruning took of the machine.
type usage struct {
	CPUSeconds float64 `json:"cpu_seconds,omitempty"` // of all threads
	PeakRSS    int64   `json:"peak_rss_bytes,omitempty"`
}

type usageMeter struct {
	cpu     time.Duration
	reset   bool
	percent int // of the collector
}

// startUsage also has the collector run often. The large arrays of a pruning hold
// no pointers, so that this costs next to nothing, and the process stays near the
// memory that is in use; by default it may grow to twice as much.
func startUsage() usageMeter {
	m := usageMeter{cpu: cpuTime(), percent: -1}
	if os.Getenv("GOGC") == "" {
		m.percent = debug.SetGCPercent(25)
	}
	m.reset = runtime.ResetPeakRSS()
	return m
}

// stop is what was used since start; a peak that cannot be told from an earlier
// one is left out.
func (m usageMeter) stop() usage {
	if m.percent >= 0 {
		debug.SetGCPercent(m.percent)
	}
	u := usage{CPUSeconds: (cpuTime() - m.cpu).Seconds()}
	if peak, ok := runtime.PeakRSS(); ok && m.reset {
		u.PeakRSS = peak
	}
	return u
}

// sizesJSON is what became of the model's size, against both types that dense
// models come in: a ratio without its base says nothing.
type sizesJSON struct {
	Source    int64   `json:"source_bytes"` // the model that was read, as stored
	Stored    int64   `json:"stored_bytes"` // all weights now
	F16       int64   `json:"f16_bytes"`    // the model that was read, dense in 16 bits
	F32       int64   `json:"f32_bytes"`    // and in 32
	Bits      float64 `json:"bits_per_weight"`
	Embedding int64   `json:"embedding_bytes"` // embedding and head now
	Layers    int64   `json:"layers_bytes"`    // pruned layers now
	LayersF16 int64   `json:"layers_f16_bytes"`
	LayerBits float64 `json:"layers_bits_per_weight"`
}

// sizesOf works out the sizes of a pruned model that is stored with o.
func sizesOf(gr *model.Graph, rep *prune.Report, source int64, o loader.SaveOptions) *sizesJSON {
	s := &sizesJSON{Source: source, Stored: modelBytes(gr, o), LayersF16: rep.Before.F16}
	n := int64(0)
	for _, w := range gr.Weights {
		r, c := w.Data.Dims()
		n += int64(r) * int64(c)
	}
	layers := map[string]bool{}
	for _, l := range rep.Layers {
		layers[l.Name] = true
	}
	for _, w := range gr.Weights {
		if layers[w.Name] {
			s.Layers += weightBytes(w, o)
		}
	}
	s.LayerBits = 16 * float64(s.Layers) / float64(max(1, rep.After.F16))
	s.Bits = 8 * float64(s.Stored) / float64(max(1, n))
	n += (rep.Before.F16 - rep.After.F16) / 2 // what structured pruning took away
	s.F16, s.F32 = 2*n, 4*n
	for _, w := range embeddings(gr) {
		s.Embedding += weightBytes(w, o)
	}
	return s
}

// modelBytes is what loader.Save with o stores for all weights.
func modelBytes(gr *model.Graph, o loader.SaveOptions) (n int64) {
	for _, w := range gr.Weights {
		n += weightBytes(w, o)
	}
	return n
}

// weightBytes is what it stores for one, small shape tensors aside: values, masks
// and scales of sparse and quantised forms as they are, all else in o's type, but
// vectors of float32 as such.
func weightBytes(w *model.Weight, o loader.SaveOptions) int64 {
	m := w.Data
	r, c := m.Dims()
	plain := m.Layout() == sparse.LayoutDense && !m.DType().Quantised()
	switch {
	case w.Rank1() && m.DType() == sparse.F32:
		return 4 * int64(r) * int64(c)
	case w.Rank1() || plain || o.Format == loader.FormatDense:
		return int64(o.DType.Bits()) / 8 * int64(r) * int64(c)
	}
	return m.Bytes().Total()
}

func (p pruneJSON) text(w io.Writer) {
	fmt.Fprintln(w, p.Report)
	layerErrors(w, p.Report)
	if c := p.Calibration; c != nil {
		fmt.Fprintf(w, "calibrated on %d windows of %d tokens; the method's own memory %s\n", c.Windows, c.Window, size(p.PeakBytes))
	}
	peak := "not measured"
	if p.PeakRSS > 0 {
		peak = size(p.PeakRSS)
	}
	fmt.Fprintf(w, "took %.1f s, %.1f CPU seconds; peak memory of the process %s\n", p.Seconds, p.CPUSeconds, peak)
	s := p.Sizes
	times := func(whole, now int64) string { return fmt.Sprintf("%.2fx", float64(whole)/float64(max(1, now))) }
	fmt.Fprintf(w, "pruned layers: %s, %.3f bits a weight with masks and scales: %s smaller than fp16 (%s), %s than fp32\n",
		size(s.Layers), s.LayerBits, times(s.LayersF16, s.Layers), size(s.LayersF16), times(2*s.LayersF16, s.Layers))
	fmt.Fprintf(w, "embedding and head: %s; all weights: %s, %.3f bits a weight: %s smaller than fp16 (%s), %s than fp32",
		size(s.Embedding), size(s.Stored), s.Bits, times(s.F16, s.Stored), size(s.F16), times(s.F32, s.Stored))
	if filepath.Ext(p.Output) == ".onnx" { // has no such forms
		fmt.Fprintf(w, "\nfile %s: %s; ONNX keeps float32, and zeros unless positions of 8 bytes take less\n", p.Output, size(p.FileSize))
		return
	}
	fmt.Fprintf(w, ", %s than the file read (%s)\n", times(s.Source, s.Stored), size(s.Source))
	fmt.Fprintf(w, "file %s: %s\n", p.Output, size(p.FileSize))
}

// layerErrors prints the relative error of every matrix, a line for a layer of the model.
func layerErrors(w io.Writer, r *prune.Report) {
	if !slices.ContainsFunc(r.Layers, func(l prune.LayerReport) bool { return l.Error != 0 }) {
		return // of structured pruning, which reports none
	}
	of := "|W-W'| / |W|"
	if r.Calibration != nil {
		of = "|(W-W')X| / |WX|, X the calibration inputs"
	}
	fmt.Fprintf(w, "errors, %s:", of)
	last := ""
	for _, l := range r.Layers {
		name := strings.TrimSuffix(l.Name, ".weight")
		block, short := "", name
		if rest, ok := strings.CutPrefix(name, "model.layers."); ok {
			if n, part, ok := strings.Cut(rest, "."); ok {
				block, short = n, strings.TrimSuffix(part[strings.LastIndexByte(part, '.')+1:], "_proj")
			}
		}
		switch {
		case block == "":
			fmt.Fprintf(w, "\n  %s", short)
		case block != last:
			fmt.Fprintf(w, "\n  layer %s: %s", block, short)
		default:
			fmt.Fprintf(w, ", %s", short)
		}
		fmt.Fprintf(w, " %.4f", l.Error)
		last = block
	}
	fmt.Fprintln(w)
}

// provenance is the metadata of a pruned file.
func provenance(rep *prune.Report) map[string]string {
	meta := maps.Clone(rep.Recipe)
	meta["sparserun.version"] = Version
	return meta
}

// embedKey of a recipe says what embedding and head were quantised to.
const embedKey = "prune.embedding"

// embeddings are the matrices of embedding and head, one where they are tied.
func embeddings(gr *model.Graph) (out []*model.Weight) {
	seen := map[*model.Weight]bool{}
	for _, n := range gr.Nodes {
		if (n.Op == model.OpEmbedding || n.Op == model.OpLinear && n.Name == model.HeadName) && !seen[n.Weight] {
			seen[n.Weight] = true
			out = append(out, n.Weight)
		}
	}
	return out
}

// quantiseEmbedding rounds embedding and head to int8, a scale per row, and puts
// it into the report: in small models they are half of the file.
func quantiseEmbedding(g *globals, gr *model.Graph, rep *prune.Report) error {
	var names []string
	for _, w := range embeddings(gr) {
		names = append(names, w.Name)
	}
	if len(names) == 0 {
		return fmt.Errorf("%s: --quant-embed: the model has no embedding", gr.Source.Path)
	}
	_, err := prune.Run(g.ctx, gr, prune.Magnitude{}, prune.Unstructured{}, prune.Options{Include: names, Threads: g.Threads,
		Store: prune.Store{Layout: sparse.LayoutDense, DType: sparse.Int8}})
	if err != nil {
		return err
	}
	rep.Recipe[embedKey] = "int8"
	return nil
}

// sourceSHA256 hashes a model file, or the files of a folder in the order of their
// names, each after its name and a zero byte.
func sourceSHA256(path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	add := func(p string) error {
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(h, f)
		return err
	}
	if !st.IsDir() {
		if err := add(path); err != nil {
			return "", err
		}
		return hex.EncodeToString(h.Sum(nil)), nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if st, err := os.Stat(filepath.Join(path, e.Name())); err != nil || !st.Mode().IsRegular() {
			continue
		}
		fmt.Fprintf(h, "%s\x00", e.Name())
		if err := add(filepath.Join(path, e.Name())); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
