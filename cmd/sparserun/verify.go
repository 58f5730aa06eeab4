package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

type verifyCmd struct {
	Model string `arg:"" help:"Model file or folder."`
	engine
	Against string `help:"Compare every weight, unpacked, with this model's." placeholder:"MODEL"`
	Fast    bool   `help:"Do not run the model."`
}

// Help is shown by --help below the flags' head.
func (*verifyCmd) Help() string {
	return `Checks that every pruned matrix holds the pattern and the mask its file records, or that the
model has the geometry structured pruning left, that the bytes on disk are what the forms
need, and that dense and sparse execution agree.

Examples:
  sparserun verify pruned.safetensors
  sparserun verify pruned.safetensors --against pruned-dense.safetensors --json`
}

var errVerify = errors.New("verification failed")

type verifyJSON struct {
	OK     bool          `json:"ok"`
	Checks []prune.Check `json:"checks"`
}

func (c *verifyCmd) Run(g *globals) error {
	if err := g.idle([]flagRule{
		{"context", false, "a verb that continues a text"},
		{"backend dtype sparse group", !c.Fast, "no --fast"},
		{"group", integers(c.DType), "--dtype int8 or int4"},
	}); err != nil {
		return err
	}
	gr, err := loader.Open(c.Model, c.loadOptions()...)
	if err != nil {
		return err
	}
	defer gr.Close()
	out := verifyJSON{OK: true}
	add := func(name string, ok bool, format string, a ...any) {
		out.Checks = append(out.Checks, prune.Check{Name: name, OK: ok, Detail: fmt.Sprintf(format, a...)})
		out.OK = out.OK && ok
	}
	structure(gr, add)
	if gr.Source.Meta["prune.pattern"] != "" {
		checks, err := prune.Verify(gr, gr.Source.Meta)
		for _, k := range checks {
			add("mask "+k.Name, k.OK, "%s", k.Detail)
		}
		if err != nil && len(checks) == 0 {
			add("mask", false, "%v", err)
		}
	} else if gr.Source.Meta["prune.structure"] == "" {
		add("provenance", true, "the file records no pruning: masks are not checked")
	}
	if err := c.bytes(gr, add); err != nil {
		return err
	}
	if c.Against != "" {
		if err := c.against(gr, add); err != nil {
			return err
		}
	}
	if !c.Fast {
		if err := c.outputs(g, gr, add); err != nil {
			return err
		}
	}
	if err := g.print(out, func(w io.Writer) { printChecks(w, out.Checks) }); err != nil {
		return err
	}
	if !out.OK {
		for _, k := range out.Checks {
			if !k.OK {
				return fmt.Errorf("%s: %s: %s: %w", c.Model, k.Name, k.Detail, errVerify)
			}
		}
	}
	return nil
}

// printChecks lists failures one by one and sums up what passed.
func printChecks(w io.Writer, checks []prune.Check) {
	masks := 0
	for _, k := range checks {
		if k.OK && len(k.Name) > 5 && k.Name[:5] == "mask " {
			masks++
			continue
		}
		state := "ok  "
		if !k.OK {
			state = "FAIL"
		}
		fmt.Fprintf(w, "%s %s: %s\n", state, visible(k.Name), visible(k.Detail))
	}
	if masks > 0 {
		fmt.Fprintf(w, "ok   %d masks equal what pruning recorded, every group rule held\n", masks)
	}
}

// bytes checks that the file is what its weights need: zeros are not stored where
// the form says so. For files of ours that is exact but for the tensors that hold
// shapes; others may carry what no weight is made of.
func (c *verifyCmd) bytes(gr *model.Graph, add func(string, bool, string, ...any)) error {
	disk, err := diskBytes(c.Model)
	if err != nil {
		return err
	}
	var linear, f16 int64
	for _, n := range gr.Linears() {
		r, k := n.Weight.Data.Dims()
		linear += n.Weight.Data.Bytes().Total()
		f16 += 2 * int64(r) * int64(k)
	}
	need := gr.WeightBytes().Total()
	if gr.Source.Format == "codebook" { // smaller than what its weights are decoded to
		add("bytes on disk", disk < need, "%d in the file, coded; %d in weights, decoded", disk, need)
		return nil
	}
	// Headers, tokenizer and configuration are not weights.
	lo, hi := need/2, need+need/50+32<<20
	if gr.Source.Meta["sparserun.version"] != "" && !gr.Tensors() { // ONNX has forms of its own
		if disk, err = tensorBytes(c.Model); err != nil {
			return err
		}
		// Shape tensors take at most 32 bytes a matrix; zero points are packed in the file.
		lo, hi = need-need/50, need+int64(32*len(gr.Weights))
	}
	add("bytes on disk", disk >= lo && disk <= hi, "%d in the file, %d in weights; prunable layers %d, %.4f of fp16", disk, need, linear, float64(linear)/float64(max(f16, 1)))
	return nil
}

// tensorBytes is what follows the header of a safetensors file, or of all those of
// a folder.
func tensorBytes(path string) (n int64, err error) {
	files := []string{path}
	if st, err := os.Stat(path); err != nil {
		return 0, err
	} else if st.IsDir() {
		if files, err = filepath.Glob(filepath.Join(path, "*.safetensors")); err != nil {
			return 0, err
		}
	}
	for _, p := range files {
		f, err := os.Open(p)
		if err != nil {
			return 0, err
		}
		var head [8]byte
		_, err = io.ReadFull(f, head[:])
		st, err2 := f.Stat()
		f.Close()
		if err = errors.Join(err, err2); err != nil {
			return 0, fmt.Errorf("%s: %w", p, err)
		}
		n += st.Size() - 8 - int64(binary.LittleEndian.Uint64(head[:]))
	}
	return n, nil
}

// structure checks what a file says of structured pruning against its geometry.
func structure(gr *model.Graph, add func(string, bool, string, ...any)) {
	want, ok := gr.Source.Meta["prune.geometry"]
	if !ok || gr.Config == nil {
		return
	}
	got := prune.Geometry(gr.Config)
	add("structure", got == want, "%s by %s: want %s, got %s", gr.Source.Meta["prune.structure"], gr.Source.Meta["prune.score"], want, got)
}

func (c *verifyCmd) against(gr *model.Graph, add func(string, bool, string, ...any)) error {
	ref, err := loader.Open(c.Against)
	if err != nil {
		return err
	}
	defer ref.Close()
	for _, w := range gr.Weights {
		o, err := ref.Weight(w.Name)
		if err != nil {
			add("against "+c.Against, false, "%v", err)
			return nil
		}
		diff, err := firstDifference(w.Data, o.Data)
		if err != nil {
			return err
		}
		if diff != "" {
			add("against "+c.Against, false, "%q: %s", w.Name, diff)
			return nil
		}
	}
	add("against "+c.Against, true, "%d weights equal", len(gr.Weights))
	return nil
}

func firstDifference(a, b sparse.Matrix) (string, error) {
	ra, ca := a.Dims()
	rb, cb := b.Dims()
	if ra != rb || ca != cb {
		return fmt.Sprintf("want [%d %d], got [%d %d]", rb, cb, ra, ca), nil
	}
	row := make([]float32, ca)
	var found string
	stop := errors.New("found")
	err := sparse.EachRow(a, func(r int, x []float32) error {
		if err := b.ReadRows(row, r); err != nil {
			return err
		}
		for i, v := range x {
			if v != row[i] {
				found = fmt.Sprintf("row %d column %d: want %g, got %g", r, i, row[i], v)
				return stop
			}
		}
		return nil
	})
	if errors.Is(err, stop) {
		err = nil
	}
	return found, err
}

// outputs runs a few tokens dense and sparse, in the type that is asked for and,
// where the file is quantised, in its own too.
func (c *verifyCmd) outputs(g *globals, gr *model.Graph, add func(string, bool, string, ...any)) error {
	b, err := c.backend(g)
	if err != nil {
		return err
	}
	defer b.Close()
	if gr.Config == nil {
		return c.network(g, b, gr, add)
	}
	engines := []engine{c.engine}
	if t, group, ok := quantisation(gr); ok && t.String() != c.DType {
		e := c.engine
		e.DType, e.Group = t.String(), group
		engines = append(engines, e)
	}
	for _, e := range engines {
		if err := e.sameOutputs(g, b, gr, add); err != nil {
			return err
		}
	}
	return nil
}

func (e *engine) sameOutputs(g *globals, b runtime.Backend, gr *model.Graph, add func(string, bool, string, ...any)) error {
	small := func(o *runtime.Options) { o.Context, o.Chunk, o.Select = 64, 32, 32 }
	dense, err := e.compile(gr, b, "off", small)
	if err != nil {
		return err
	}
	defer dense.Close()
	mode := e.sparseMode(gr)
	sp, err := e.compile(gr, b, mode, small)
	if err != nil {
		return err
	}
	defer sp.Close()
	if !anySparse(newSide("", e.DType, sp).Layouts) {
		add("dense and sparse outputs in "+e.DType, true, "no weight runs sparse")
		return nil
	}
	ids := make([]int32, min(32, gr.Config.Context))
	for i := range ids {
		ids[i] = int32(uint32(i*2654435761) % uint32(gr.Config.Vocab))
	}
	x, err := allLogits(g, dense, ids)
	if err != nil {
		return err
	}
	y, err := allLogits(g, sp, ids)
	if err != nil {
		return err
	}
	e.addOutputs(x, y, mode, "logits", add)
	return nil
}

// sparseMode is --sparse, or the form that a file's weights are in.
func (e *engine) sparseMode(gr *model.Graph) string {
	switch {
	case e.Sparse != "auto":
		return e.Sparse
	case holds24(gr):
		return sparse.LayoutNM24.String()
	}
	return sparse.LayoutBitmask.String()
}

// addOutputs compares what dense and sparse execution gave.
func (e *engine) addOutputs(dense, sp []float32, mode, what string, add func(string, bool, string, ...any)) {
	var diff, top float64
	for i, x := range dense {
		d := math.Abs(float64(x - sp[i]))
		if math.IsNaN(d) && !(math.IsNaN(float64(x)) && math.IsNaN(float64(sp[i]))) {
			d = math.Inf(1)
		}
		diff = max(diff, d)
		top = max(top, math.Abs(float64(x)))
	}
	tol := relTolerance(e.DType) * top
	add("dense and sparse outputs in "+e.DType, diff <= tol, "%s against dense: largest difference %.3g of %s up to %.3g, allowed %.3g", mode, diff, what, top, tol)
}

// network runs two rows of noise through a network, dense and sparse.
func (c *verifyCmd) network(g *globals, b runtime.Backend, gr *model.Graph, add func(string, bool, string, ...any)) error {
	name := "dense and sparse outputs in " + c.DType
	x, shape, _, err := (&runCmd{Model: c.Model, Batch: 2, Seed: 1}).netInput(gr)
	if err != nil {
		add(name, true, "not compared, the input is not known: %v", err)
		return nil
	}
	mode := c.sparseMode(gr)
	var outs [2][]float32
	for i, m := range []string{"off", mode} {
		s, err := c.compile(gr, b, m, nil)
		if err != nil {
			return err
		}
		defer s.Close()
		if i == 1 && !slices.ContainsFunc(s.Explain(), func(k *runtime.Choice) bool { return k.Layout != sparse.LayoutDense.String() }) {
			add(name, true, "no weight runs sparse")
			return nil
		}
		y, err := runNet(g, s, x, shape)
		if err != nil {
			return fmt.Errorf("%s: %w", c.Model, err)
		}
		ok := false
		if outs[i], ok = y.Data.([]float32); !ok {
			add(name, true, "not compared: outputs are %v", y.Elem)
			return nil
		}
	}
	c.addOutputs(outs[0], outs[1], mode, "outputs", add)
	return nil
}

func holds24(gr *model.Graph) bool {
	for _, n := range gr.Linears() {
		if n.Weight.Data.Layout() == sparse.LayoutNM24 {
			return true
		}
	}
	return false
}
