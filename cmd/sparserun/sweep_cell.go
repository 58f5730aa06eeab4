package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tokenizer"
)

// sweep is a sweep at work.
type sweep struct {
	cmd     *sweepCmd
	g       *globals
	backend runtime.Backend
	text    string
	source  string // SHA-256 of the model
	out     sweepJSON
}

// sweepRow is one cell's line of the table.
type sweepRow struct {
	Method     string  `json:"method"`
	Level      string  `json:"level"`
	Sparsity   float64 `json:"sparsity"`
	Perplexity float64 `json:"perplexity"`
	Bytes      int64   `json:"weight_bytes"` // as it is stored: values, masks, scales of all weights
	Pruned     int64   `json:"pruned_bytes"` // of the layers that were pruned
	F16        int64   `json:"f16_bytes"`    // those layers, dense in 16 bits
	Seconds    float64 `json:"prune_seconds"`
	CPU        float64 `json:"prune_cpu_seconds,omitempty"` // of all threads; what counts on a busy machine
	Peak       int64   `json:"prune_peak_bytes,omitempty"`  // the method's working memory, by its own account
	PeakRSS    int64   `json:"prune_peak_rss_bytes,omitempty"`
	Prefill    float64 `json:"prefill_tokens_per_s,omitempty"`
	Decode     float64 `json:"decode_tokens_per_s,omitempty"`
	SpeedType  string  `json:"speed_dtype,omitempty"`
	SpeedBytes int64   `json:"speed_weight_bytes,omitempty"` // all weights as they ran
}

// journalEntry is a finished cell: its row and what it depends on.
type journalEntry struct {
	Row         sweepRow           `json:"row"`
	Recipe      map[string]string  `json:"recipe"` // of the pruning, as planned
	Eval        map[string]string  `json:"eval"`   // of the perplexity
	Calibration *prune.Calibration `json:"calibration,omitempty"`
}

func (s *sweep) path(kind string, x cell, ext string) string {
	return filepath.Join(s.cmd.Out, kind, x.file()+ext)
}

// row takes a cell from the journal or makes it; with --done it does not, and says
// false.
func (s *sweep) row(x cell) (sweepRow, bool, error) {
	gr, err := loader.Open(s.cmd.Model, s.cmd.loadOptions()...)
	if err != nil {
		return sweepRow{}, false, err
	}
	defer gr.Close()
	r, ok, err := s.rowOf(x, gr)
	return r, ok && err == nil, err
}

func (s *sweep) rowOf(x cell, gr *model.Graph) (sweepRow, bool, error) {
	c := s.cmd
	var err error
	e := journalEntry{Row: sweepRow{Method: x.method(), Level: x.level()}, Recipe: map[string]string{"prune.source_sha256": s.source}}
	sum := sha256.Sum256([]byte(s.text))
	e.Eval = map[string]string{"text": hex.EncodeToString(sum[:]), "window": fmt.Sprint(c.Window), "windows": fmt.Sprint(c.Windows), "dtype": c.DType}
	// What else moves a perplexity, where it is not as usual.
	if t := c.DType; c.Group != 0 && (t == sparse.Int8.String() || t == sparse.Int4.String()) {
		e.Eval["group"] = fmt.Sprint(c.Group)
	}
	if c.Sparse != "auto" {
		e.Eval["sparse"] = c.Sparse
	}
	if b := s.backend.Name(); b != "cpu" {
		e.Eval["backend"] = b
	}
	var m prune.Method
	var p prune.Pattern
	var o prune.Options
	if x.prunes() {
		if m, p, o, err = x.plan(c, s.g, gr, s.source); err != nil {
			return e.Row, false, err
		}
		if e.Recipe, err = prune.Planned(gr, m, p, o); err != nil {
			return e.Row, false, err
		}
		if x.has("embed8") {
			e.Recipe[embedKey] = "int8"
		}
	}
	if c.Out != "" {
		var old journalEntry
		if readJSON(s.path("cells", x, ".json"), &old) {
			switch ok := same(e.Recipe, old.Recipe) && maps.Equal(e.Eval, old.Eval); {
			case !ok:
				s.g.logf("%s: was done with another model, text or options: done anew", x)
			case c.Keep && x.prunes() && !exists(s.path("models", x, ".safetensors")):
				s.g.logf("%s: the model was not kept: done anew", x)
			default:
				s.note(old)
				return old.Row, true, nil
			}
		}
	}
	if c.Done {
		return e.Row, false, nil
	}
	pruned := gr
	if x.prunes() {
		var done func()
		if pruned, done, err = s.pruned(x, gr, m, p, o, &e); err != nil {
			return e.Row, false, err
		}
		defer done()
	}
	e.Row.Bytes = modelBytes(pruned, loader.SaveOptions{DType: sparse.F16})
	if e.Row.Perplexity, err = s.perplexity(pruned); err != nil {
		return e.Row, false, err
	}
	s.note(e)
	s.g.logf("%s: perplexity %.3f; pruned in %.0f s", x, e.Row.Perplexity, e.Row.Seconds)
	if c.Out != "" {
		if err := writeJSON(s.path("cells", x, ".json"), e); err != nil {
			return e.Row, false, err
		}
		os.RemoveAll(s.path("journal", x, "")) // the cell is whole: its blocks are not needed
	}
	return e.Row, true, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (s *sweep) note(e journalEntry) {
	if e.Calibration != nil {
		s.out.Calibration = e.Calibration
	}
}

// same says whether got has all of want.
func same(want, got map[string]string) bool {
	for k, v := range want {
		if got[k] != v {
			return false
		}
	}
	return true
}

// pruned takes the cell's model from --out, if an earlier sweep kept it, or prunes
// gr. done closes what was opened.
func (s *sweep) pruned(x cell, gr *model.Graph, m prune.Method, p prune.Pattern, o prune.Options, e *journalEntry) (*model.Graph, func(), error) {
	var rep pruneJSON
	file := s.path("models", x, ".safetensors")
	if s.cmd.Out != "" && readJSON(s.path("models", x, ".json"), &rep) && rep.Report != nil {
		kept, ok, err := opened(file)
		if err != nil {
			return nil, nil, err
		}
		if ok {
			if same(e.Recipe, kept.Source.Meta) {
				e.fill(&rep)
				return kept, func() { kept.Close() }, nil
			}
			kept.Close()
		}
	}
	if s.cmd.Out != "" {
		o.Journal = s.path("journal", x, "")
	}
	use := startUsage()
	var err error
	if rep.Report, err = prune.Run(s.g.ctx, gr, m, p, o); err != nil {
		return nil, nil, err
	}
	if x.has("embed8") {
		if err := quantiseEmbedding(s.g, gr, rep.Report); err != nil {
			return nil, nil, err
		}
	}
	rep.usage = use.stop()
	e.fill(&rep)
	if s.cmd.Keep {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return nil, nil, err
		}
		if err := loader.SaveContext(s.g.ctx, gr, file, loader.SaveOptions{Meta: provenance(rep.Report), DType: sparse.F16}); err != nil {
			return nil, nil, err
		}
		rep.Output = file
		if err := writeJSON(s.path("models", x, ".json"), rep); err != nil {
			return nil, nil, err
		}
	}
	return gr, func() {}, nil
}

// fill takes what the report says into the row.
func (e *journalEntry) fill(rep *pruneJSON) {
	r := &e.Row
	r.Sparsity, r.Seconds, r.Peak = rep.Sparsity, rep.Seconds, rep.PeakBytes
	r.CPU, r.PeakRSS = rep.CPUSeconds, rep.PeakRSS
	r.Pruned, r.F16 = rep.After.Pruned, rep.After.F16
	e.Calibration = rep.Calibration
}

func (s *sweep) perplexity(gr *model.Graph) (float64, error) {
	c := s.cmd
	run, err := c.compile(gr, s.backend, c.Sparse, func(o *runtime.Options) {
		o.Chunk, o.Select = 256, 256
		if o.Context == 0 {
			o.Context = c.Window
		}
	})
	if err != nil {
		return 0, err
	}
	defer run.Close()
	if gr.Tokenizer == nil {
		return 0, fmt.Errorf("%s: no tokenizer in the file", c.Model)
	}
	ids := gr.Tokenizer.Encode(s.text, tokenizer.EncodeOptions{BOS: tokenizer.Never, EOS: tokenizer.Never})
	p, err := run.Perplexity(s.g.ctx, ids, c.Window, c.Windows, nil)
	if err != nil {
		return 0, err
	}
	return p.PPL, nil
}
