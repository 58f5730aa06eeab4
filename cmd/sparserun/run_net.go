package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sparserun/sparserun/dataset"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
)

// netSideJSON is one execution of a network.
type netSideJSON struct {
	Model         string             `json:"model"`
	DType         string             `json:"dtype"`
	WeightBytes   int64              `json:"weight_bytes"`
	MetadataBytes int64              `json:"metadata_bytes"`
	PeakBytes     int64              `json:"peak_bytes,omitempty"`
	LoadSeconds   float64            `json:"load_seconds"`
	Rows          float64            `json:"rows_per_s"`
	Latency       map[string]float64 `json:"latency_ms"` // of one run of the whole batch
	Layouts       map[string]int     `json:"layouts"`
	EnergyJ       *float64           `json:"energy_joules,omitempty"`
}

type netRunJSON struct {
	Input       string            `json:"input"`
	InputShape  []int             `json:"input_shape"`
	Output      []float32         `json:"output"`
	OutputShape []int             `json:"output_shape"`
	Dense       *netSideJSON      `json:"dense,omitempty"`
	Sparse      *netSideJSON      `json:"sparse,omitempty"`
	Speedup     *float64          `json:"speedup,omitempty"` // dense over sparse median latency
	MemoryRatio float64           `json:"memory_ratio,omitempty"`
	MaxAbsError *float64          `json:"max_abs_error,omitempty"`
	Tolerance   float64           `json:"tolerance,omitempty"`
	Energy      string            `json:"energy,omitempty"`
	Explain     []*runtime.Choice `json:"explain,omitempty"`
}

// netSide is a network in a form.
type netSide struct {
	label, mode string
	s           *runtime.Session
	j           *netSideJSON
	out         []float32
	shape       []int
	times       runtime.Latencies
	joules      float64
	metered     string
}

// network runs a model that is no language model: an ONNX file, say.
func (c *runCmd) network(g *globals, b runtime.Backend, gr *model.Graph) error {
	if c.Baseline != "" || c.Text != "" {
		return usagef("--baseline and --text are for language models; accuracy of networks: sparserun eval")
	}
	x, shape, source, err := c.netInput(gr)
	if err != nil {
		return err
	}
	sides := []*netSide{{label: "network", mode: c.Sparse}}
	if c.Compare {
		if c.Sparse == "off" || c.Sparse == "dense" {
			return usagef("--compare runs sparse beside dense: --sparse %s leaves nothing to compare", c.Sparse)
		}
		sides = []*netSide{{label: "dense", mode: "off"}, {label: "sparse", mode: c.Sparse}}
	}
	for _, s := range sides {
		if err := c.netAlone(g, b, gr, s, x, shape); err != nil {
			return err
		}
	}
	defer func() {
		for _, s := range sides {
			if s.s != nil {
				s.s.Close()
			}
		}
	}()
	for _, s := range sides {
		if s.s, err = c.compile(gr, b, s.mode, nil); err != nil {
			return err
		}
	}
	for range c.Rounds {
		for _, s := range sides {
			if err := s.round(g, b, x, shape); err != nil {
				return err
			}
		}
	}
	last := sides[len(sides)-1]
	out := netRunJSON{Input: source, InputShape: shape, Output: last.out, OutputShape: last.shape, Energy: "not measured"}
	for _, s := range sides {
		s.j.latency(&s.times, shape[0])
		if s.metered != "" {
			s.j.EnergyJ, out.Energy = &s.joules, s.metered+", joules of the timed rounds"
		}
	}
	if c.Explain {
		out.Explain = last.s.Explain()
	}
	if !c.Compare {
		if out.Dense = last.j; anySparse(last.j.Layouts) {
			out.Dense, out.Sparse = nil, last.j
		}
	} else {
		out.Dense, out.Sparse = sides[0].j, sides[1].j
		ratio := sides[0].j.Latency["p50"] / sides[1].j.Latency["p50"]
		worst, top := 0.0, 0.0
		for i, v := range sides[0].out {
			worst = max(worst, math.Abs(float64(v-sides[1].out[i])))
			top = max(top, math.Abs(float64(v)))
		}
		out.Speedup, out.MaxAbsError, out.Tolerance = &ratio, &worst, relTolerance(c.DType)*top
		out.MemoryRatio = float64(sides[1].j.WeightBytes) / float64(sides[0].j.WeightBytes)
	}
	if err := g.print(out, func(w io.Writer) { netReport(w, sides, &out, c) }); err != nil {
		return err
	}
	if out.MaxAbsError != nil && *out.MaxAbsError > out.Tolerance {
		return fmt.Errorf("dense and sparse outputs of the same weights differ by %.3g, more than %.3g", *out.MaxAbsError, out.Tolerance)
	}
	return nil
}

// netAlone loads one form by itself, for its memory, its start and its output.
func (c *runCmd) netAlone(g *globals, b runtime.Backend, gr *model.Graph, n *netSide, x []float32, shape []int) error {
	before, _ := runtime.RSS()
	reset := runtime.ResetPeakRSS()
	start := time.Now()
	s, err := c.compile(gr, b, n.mode, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	load := time.Since(start)
	y, err := runNet(g, s, x, shape)
	if err != nil {
		return err
	}
	f, ok := y.Data.([]float32)
	if !ok || len(y.Shape) == 0 {
		return fmt.Errorf("%s: run shows float32 outputs, this is %v of shape %v", c.Model, y.Elem, y.Shape)
	}
	n.out, n.shape = slices.Clone(f), y.Shape
	m := s.Counters().Memory
	n.j = &netSideJSON{Model: c.Model, DType: c.DType, WeightBytes: m.Weights.Total(), MetadataBytes: m.Weights.Metadata,
		LoadSeconds: load.Seconds(), Layouts: map[string]int{}}
	for _, choice := range s.Explain() {
		n.j.Layouts[choice.Layout]++
	}
	if p, ok := runtime.PeakRSS(); ok && reset {
		n.j.PeakBytes = p - min(before, baseRSS)
	}
	return nil
}

// round runs the network for about a fifth of a second, at least thrice.
func (n *netSide) round(g *globals, b runtime.Backend, x []float32, shape []int) error {
	if _, err := runNet(g, n.s, x, shape); err != nil { // warm
		return err
	}
	meter := openMeter(b)
	for start, i := time.Now(), 0; i < 3 || i < 1000 && time.Since(start) < 200*time.Millisecond; i++ {
		t := time.Now()
		if _, err := runNet(g, n.s, x, shape); err != nil {
			return err
		}
		n.times.Add(time.Since(t))
	}
	if j, source := meter.joules(); source != "" {
		n.joules += j
		n.metered = source
	}
	return nil
}

func (j *netSideJSON) latency(l *runtime.Latencies, rows int) {
	j.Latency = quantiles(l)
	if p := j.Latency["p50"]; p > 0 {
		j.Rows = float64(rows) / p * 1000
	}
}

// runNet computes the first output of a network of one input.
func runNet(g *globals, s *runtime.Session, x []float32, shape []int) (*model.Tensor, error) {
	gr := s.Graph()
	if gr.Tensors() {
		in := &model.Tensor{Elem: model.ElemF32, Shape: shape, Data: x}
		out, err := s.RunTensors(g.ctx, map[string]*model.Tensor{gr.Values[gr.Inputs[0]].Name: in})
		if err != nil {
			return nil, err
		}
		return out[gr.Values[gr.Outputs[0]].Name], nil
	}
	y, err := s.RunFloats(g.ctx, x, shape...)
	if err != nil {
		return nil, err
	}
	return &model.Tensor{Elem: model.ElemF32, Shape: []int{shape[0], len(y) / shape[0]}, Data: y}, nil
}

// netInput is what --input holds, or seeded noise in the shape that the network wants.
func (c *runCmd) netInput(gr *model.Graph) (x []float32, shape []int, source string, err error) {
	if len(gr.Inputs) != 1 {
		return nil, nil, "", fmt.Errorf("%s: run feeds networks of one input, this has %d (the server and Session.RunTensors take them all)", c.Model, len(gr.Inputs))
	}
	v := gr.Values[gr.Inputs[0]]
	want := slices.Clone(v.Shape)
	if !gr.Tensors() {
		want = []int{-1, v.Width}
	} else if v.Elem != model.ElemF32 {
		return nil, nil, "", fmt.Errorf("%s: run feeds float32, input %q is %v", c.Model, v.Name, v.Elem)
	}
	if len(c.Shape) > 0 {
		want = slices.Clone(c.Shape)
	}
	if c.Input != "" {
		if x, shape, err = readNumbers(c.Input); err != nil {
			return nil, nil, "", err
		}
	}
	switch {
	case len(shape) > 1 && len(c.Shape) == 0: // the file says its shape
		return x, shape, c.Input, nil
	case len(want) == 0:
		return nil, nil, "", usagef("input %q has no shape in the file: say it by --shape", v.Name)
	}
	per := 1
	for i, d := range want {
		if i > 0 && d < 0 {
			return nil, nil, "", usagef("input %q of shape %v: say the free dimensions by --shape", v.Name, want)
		}
		if i > 0 {
			per *= d
		}
	}
	if want[0] < 0 {
		want[0] = c.Batch
		if c.Input != "" && per > 0 {
			want[0] = len(x) / per
		}
	}
	n, err := model.Elements(model.ElemF32, want)
	if err != nil {
		return nil, nil, "", usageError{err}
	}
	if c.Input != "" {
		if len(x) != n || n == 0 {
			return nil, nil, "", fmt.Errorf("%s: want %v numbers, a multiple of %d, got %d", c.Input, want, per, len(x))
		}
		return x, want, c.Input, nil
	}
	if n == 0 {
		return nil, nil, "", usagef("--shape %v holds no number", want)
	}
	rng := rand.New(rand.NewPCG(c.Seed, 1))
	x = make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x, want, fmt.Sprintf("normal noise, seed %d", c.Seed), nil
}

// maxInput bounds an input file.
const maxInput = 1 << 30

// readNumbers reads float32 numbers: .json (an array, nested or flat), .npy (see
// dataset.NPY), anything else as raw little-endian float32.
func readNumbers(path string) (x []float32, shape []int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxInput+1))
	if err != nil {
		return nil, nil, err
	}
	if len(b) > maxInput {
		return nil, nil, fmt.Errorf("%s: want at most %d bytes", path, maxInput)
	}
	switch filepath.Ext(path) {
	case ".json":
		var v any
		if err := json.Unmarshal(b, &v); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
		x, shape, err = flatten(v, nil, 0)
	case ".npy":
		x, shape, err = dataset.NPY(b)
	default:
		if len(b)%4 != 0 {
			err = fmt.Errorf("want float32 numbers, got %d bytes", len(b))
		} else {
			x, shape = floats(b), []int{len(b) / 4}
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return x, shape, nil
}

func floats(b []byte) []float32 {
	x := make([]float32, len(b)/4)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return x
}

// flatten appends the numbers of a nested array to x; all parts have one shape.
func flatten(v any, x []float32, depth int) ([]float32, []int, error) {
	switch v := v.(type) {
	case float64:
		return append(x, float32(v)), nil, nil
	case []any:
		if depth == 16 {
			return nil, nil, fmt.Errorf("json: want at most 16 dimensions")
		}
		shape := []int{len(v)}
		for i, part := range v {
			var s []int
			var err error
			if x, s, err = flatten(part, x, depth+1); err != nil {
				return nil, nil, err
			}
			if i == 0 {
				shape = append(shape, s...)
			} else if !slices.Equal(shape[1:], s) {
				return nil, nil, fmt.Errorf("json: want rows of one shape %v, got %v", shape[1:], s)
			}
		}
		return x, shape, nil
	}
	return nil, nil, fmt.Errorf("json: want arrays of numbers, got %T", v)
}

// netReport prints outputs and table for people.
func netReport(w io.Writer, sides []*netSide, out *netRunJSON, c *runCmd) {
	last := sides[len(sides)-1]
	if rows := out.OutputShape[0]; rows > 0 {
		per := len(out.Output) / rows
		for r := range min(rows, 8) {
			y := out.Output[r*per : (r+1)*per]
			fmt.Fprintf(w, "row %d: largest is %d of %d, %.4g\n", r, runtime.Argmax(y), per, y[runtime.Argmax(y)])
		}
	}
	if c.Explain {
		explain(w, last.s.Explain())
	}
	fmt.Fprintf(w, "input %v (%s), output %v\n\n", out.InputShape, out.Input, out.OutputShape)
	t := table{}
	row := func(name string, f func(*netSide) string, ratio string) {
		cells := []string{name}
		for _, s := range sides {
			cells = append(cells, f(s))
		}
		if c.Compare && ratio != "" {
			cells = append(cells, ratio)
		}
		t.add(cells...)
	}
	over := func(f func(*netSideJSON) float64) string {
		return fmt.Sprintf("%.3f", f(last.j)/f(sides[0].j))
	}
	row("weights in "+c.DType, func(s *netSide) string { return s.label }, "sparse / dense")
	row("weights", func(s *netSide) string { return size(s.j.WeightBytes) }, fmt.Sprintf("%.3f", out.MemoryRatio))
	row("peak memory", func(s *netSide) string {
		if s.j.PeakBytes == 0 {
			return "not measured"
		}
		return size(s.j.PeakBytes)
	}, "")
	row("load", func(s *netSide) string { return fmt.Sprintf("%.2f s", s.j.LoadSeconds) }, "")
	row("rows/s", func(s *netSide) string { return fmt.Sprintf("%.1f", s.j.Rows) }, over(func(j *netSideJSON) float64 { return j.Rows }))
	for _, q := range []string{"p50", "p95", "p99"} {
		row("latency "+q, func(s *netSide) string { return fmt.Sprintf("%.3f ms", s.j.Latency[q]) }, over(func(j *netSideJSON) float64 { return j.Latency[q] }))
	}
	row("energy", func(s *netSide) string {
		if s.j.EnergyJ == nil {
			return "not measured"
		}
		return fmt.Sprintf("%.1f J", *s.j.EnergyJ)
	}, "")
	t.write(w)
	if c.Compare {
		fmt.Fprintf(w, "\ndense and sparse run the same weights; largest difference of their outputs %.2g (allowed %.2g). Medians of %d alternating rounds.\n",
			*out.MaxAbsError, out.Tolerance, c.Rounds)
		switch {
		case !anySparse(last.j.Layouts):
			fmt.Fprintln(w, noneSparse)
		case *out.Speedup < 1:
			fmt.Fprintln(w, "sparse LOSES here.")
		}
	}
}
