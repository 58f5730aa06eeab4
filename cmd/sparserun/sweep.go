package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/sparse"
)

// sweepCmd prunes one model in many ways and compares quality, size and speed.
type sweepCmd struct {
	Model string `arg:"" help:"Model file or folder."`
	engine
	Text    string   `required:"" help:"Text that perplexity is measured on." placeholder:"FILE"`
	Window  int      `default:"512" help:"Tokens of a window."`
	Windows int      `default:"40" help:"Number of windows (0: the whole text)."`
	Methods []string `help:"Methods, each at every level (default random, magnitude, wanda, sparsegpt, best, unless --cells are given); see prune --help." placeholder:"M,..."`
	Levels  []string `default:"0.5,2:4" help:"Sparsities (0.5) and patterns (2:4)."`
	Cells   []string `help:"Single cells: METHOD@LEVEL, where METHOD may go on with +resolve, +owl, +sensitivity, +permute, +int8, +int4 (groups of 32), +embed8." placeholder:"M@L,..."`
	Seed    uint64   `default:"0" help:"Of random pruning."`
	Out     string   `help:"Folder for sweep.md, sweep.csv, sweep.json, sweep.png and a journal of finished cells: a sweep that was interrupted goes on." placeholder:"DIR"`
	Keep    bool     `help:"Keep the pruned models in --out, so that --speed can be measured later; --speed does by itself."`
	Done    bool     `help:"Only cells that are in the journal already: with --speed this takes minutes."`
	speedFlags
	calibFlags
}

// Help is shown by --help below the flags' head.
func (*sweepCmd) Help() string {
	return `Every cell starts from the model as it is; the first row is the model itself. With --out
a finished cell is kept and taken from there the next time, if model, texts and options are
the same; inside a cell pruning resumes after the last finished block. Speeds want a quiet
machine, the rest does not: run a long sweep with --keep, then again with --speed --done.

Examples:
  sparserun sweep model.gguf --text test.txt --calib valid.txt
  sparserun sweep model.gguf --text test.txt --calib valid.txt --methods wanda,best --levels 0.5,0.7,2:4 --out sweep/ --keep
  sparserun sweep model.gguf --text test.txt --calib valid.txt --cells best@2:4,best+int4@2:4,sparsegpt+owl@0.7 --out sweep/ --keep --speed`
}

func (c *sweepCmd) Run(g *globals) error {
	cells, err := c.cells()
	if err != nil {
		return err
	}
	if c.Window < 2 || c.Windows < 0 || c.Context < 0 || c.SpeedRounds < 1 {
		return usagef("--window, --windows, --context and --speed-rounds: want at least 2, 0, 0 and 1, got %d, %d, %d and %d", c.Window, c.Windows, c.Context, c.SpeedRounds)
	}
	if c.Speed {
		c.Keep = true
		if c.Out == "" {
			dir, err := os.MkdirTemp("", "sparserun-sweep-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			c.Out = dir
		}
	}
	if (c.Keep || c.Done) && c.Out == "" {
		return usagef("--keep and --done need --out DIR")
	}
	if c.Journal != "" {
		return usagef("--journal: a sweep keeps its own in --out DIR")
	}
	s := &sweep{cmd: c, g: g, out: sweepJSON{Model: c.Model, DType: c.DType, Text: c.Text, Window: c.Window, Windows: c.Windows}}
	if s.text, err = readText(c.Text); err != nil {
		return err
	}
	if s.source, err = sourceSHA256(c.Model); err != nil {
		return err
	}
	if s.backend, err = c.backend(g); err != nil {
		return err
	}
	defer s.backend.Close()
	bar := g.progress(len(cells), "sweep")
	defer bar.done()
	var done []cell
	for i, x := range cells {
		bar.set(i, x.String())
		row, ok, err := s.row(x)
		if err != nil {
			return fmt.Errorf("%s: %w", x, err)
		}
		if !ok {
			g.logf("%s: not in the journal", x)
			continue
		}
		done, s.out.Rows = append(done, x), append(s.out.Rows, row)
		if c.Out != "" { // a sweep that is cut short leaves the table so far
			if err := s.out.save(c.Out); err != nil {
				return err
			}
		}
	}
	if c.Speed {
		if err := s.speeds(done); err != nil {
			return err
		}
	}
	if c.Out != "" {
		if err := s.out.save(c.Out); err != nil {
			return err
		}
	}
	return g.print(s.out, s.out.markdown)
}

// cells lists what is asked for, the dense model first.
func (c *sweepCmd) cells() ([]cell, error) {
	out := []cell{{base: dense}}
	methods := c.Methods
	if len(methods) == 0 && len(c.Cells) == 0 {
		methods = []string{"random", "magnitude", "wanda", "sparsegpt", "best"}
	}
	var names []string
	for _, m := range methods {
		for _, l := range c.Levels {
			names = append(names, m+"@"+l)
		}
	}
	for _, name := range append(names, c.Cells...) {
		x, err := parseCell(name)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(out, func(y cell) bool { return y.String() == x.String() }) {
			out = append(out, x)
		}
	}
	return out, nil
}

// dense is the method of cells that prune nothing.
const dense = "dense"

// cell is one way to prune: METHOD[+OPTION...]@LEVEL.
type cell struct {
	base    string   // method, with +resolve if asked for
	options []string // owl, sensitivity, permute, int8, int4, embed8
	pattern prune.Pattern
}

func (x cell) method() string { return strings.Join(append([]string{x.base}, x.options...), "+") }

func (x cell) level() string {
	if x.pattern == nil {
		return "-"
	}
	return x.pattern.String()
}

func (x cell) String() string { return x.method() + "@" + x.level() }

func (x cell) has(option string) bool { return slices.Contains(x.options, option) }

// file is the cell's name where names of files are wanted.
func (x cell) file() string {
	return strings.NewReplacer(":", "of", "/", "_", "@-", "").Replace(x.String())
}

var cellOptions = []string{"owl", "sensitivity", "permute", "int8", "int4", "embed8"}

func parseCell(s string) (x cell, err error) {
	method, level, ok := strings.Cut(s, "@")
	parts := strings.Split(method, "+")
	x.base = parts[0]
	for _, p := range parts[1:] {
		switch {
		case p == "resolve":
			x.base += "+resolve"
		case slices.Contains(cellOptions, p) && !x.has(p):
			x.options = append(x.options, p)
		default:
			return x, usagef("%s: %q: want options of resolve, %s", s, p, strings.Join(cellOptions, ", "))
		}
	}
	if x.base == dense {
		if ok && level != "-" || len(x.options) > 0 && !x.has("int8") && !x.has("int4") && !x.has("embed8") {
			return x, usagef("%s: the dense model has no level, and takes +int8, +int4 or +embed8 only", s)
		}
		return x, nil
	}
	if !ok {
		return x, usagef("%s: want METHOD@LEVEL", s)
	}
	if x.pattern, err = prune.ParsePattern(level); err != nil {
		return x, usageError{err}
	}
	return x, nil
}

// prunes says whether the cell changes the model at all.
func (x cell) prunes() bool { return x.base != dense || len(x.options) > 0 }

// plan is the method, pattern and options of prune.Run.
func (x cell) plan(c *sweepCmd, g *globals, gr *model.Graph, source string) (prune.Method, prune.Pattern, prune.Options, error) {
	o := prune.Options{Store: prune.Store{DType: sparse.F16}, Threads: g.Threads, SourceSHA256: source,
		Permute: x.has("permute"), Log: func(s string) { g.logf("%s", s) }}
	switch {
	case x.has("owl"):
		o.Allocate = prune.OWL{}
	case x.has("sensitivity"):
		o.Allocate = prune.Sensitivity{}
	}
	switch {
	case x.has("int8"):
		o.Store.DType = sparse.Int8
	case x.has("int4"):
		o.Store.DType, o.Store.Group = sparse.Int4, 32
	}
	if x.base == dense { // to prune nothing by magnitude is to quantise
		o.Store.Layout = sparse.LayoutDense
		return prune.Magnitude{}, prune.Unstructured{}, o, nil
	}
	m, err := c.method(gr, x.base, c.Seed)
	return m, x.pattern, o, err
}

// save writes the table in every form; existing files are replaced.
func (o *sweepJSON) save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, f := range o.forms() {
		if err := writeFile(filepath.Join(dir, name), f); err != nil {
			return err
		}
	}
	return o.plot(filepath.Join(dir, "sweep.png"))
}

// writeJSON replaces a file of the journal, whole or not at all.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".part"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o644); err != nil {
		os.Remove(tmp)
		return err
	}
	return os.Rename(tmp, path)
}

// readJSON says whether the file is there and can be read.
func readJSON(path string, v any) bool {
	b, err := os.ReadFile(path)
	return err == nil && json.Unmarshal(b, v) == nil
}

// opened loads a model; what is no file of its kind is not there.
func opened(path string) (*model.Graph, bool, error) {
	gr, err := loader.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	return gr, err == nil, err
}
