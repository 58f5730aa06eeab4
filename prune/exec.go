package prune

import (
	"fmt"
	"math"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// executor runs the nodes of a language model in float32 over whole windows, for
// calibration and perplexity. It is not the runtime: no cache, no choice of
// kernels, every window a sequence that starts at position 0.
type executor struct {
	g      *model.Graph
	pool   *linalg.Pool
	window int // tokens of a sequence
	// weights holds matrices of the blocks at work, unpacked; load and drop them.
	weights map[*model.Weight][]float32
	vectors map[*model.Weight][]float32
	cos     []float32 // [window, HeadDim/2]
	sin     []float32
	free    map[int][][]float32 // buffers by length
}

func newExecutor(g *model.Graph, pool *linalg.Pool, window int) (*executor, error) {
	if g.Config == nil {
		return nil, fmt.Errorf("prune: calibration needs a language model: %w", ErrCalib)
	}
	if window > g.Config.Context {
		return nil, fmt.Errorf("prune: windows of %d tokens, the model's context is %d: %w", window, g.Config.Context, ErrCalib)
	}
	return &executor{g: g, pool: pool, window: window, weights: map[*model.Weight][]float32{},
		vectors: map[*model.Weight][]float32{}, free: map[int][][]float32{}}, nil
}

// load unpacks the matrices of nodes that are not there yet.
func (x *executor) load(nodes []*model.Node) error {
	var want []*model.Weight
	for _, n := range nodes {
		if n.Op != model.OpLinear || x.weights[n.Weight] != nil {
			continue
		}
		r, c := n.Weight.Data.Dims()
		x.weights[n.Weight] = make([]float32, r*c)
		want = append(want, n.Weight)
	}
	errs := make([]error, len(want))
	x.pool.Run(len(want), func(i int) { errs[i] = want[i].Data.ReadRows(x.weights[want[i]], 0) })
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("prune: %q: %w", want[i].Name, err)
		}
	}
	return nil
}

// drop forgets unpacked matrices.
func (x *executor) drop(nodes []*model.Node) {
	for _, n := range nodes {
		delete(x.weights, n.Weight)
	}
}

func (x *executor) vector(w *model.Weight) ([]float32, error) {
	if v := x.vectors[w]; v != nil {
		return v, nil
	}
	v, err := w.Vector()
	if err != nil {
		return nil, fmt.Errorf("prune: %q: %w", w.Name, err)
	}
	x.vectors[w] = v
	return v, nil
}

// buffer returns n numbers of any value.
func (x *executor) buffer(n int) []float32 {
	if l := x.free[n]; len(l) > 0 {
		x.free[n] = l[:len(l)-1]
		return l[len(l)-1]
	}
	return make([]float32, n)
}

func (x *executor) release(b []float32) { x.free[len(b)] = append(x.free[len(b)], b) }

// values are activations of some whole windows, [tokens, width] each.
type values map[model.ValueID][]float32

// tokens is the value of a language model that holds ids, not activations.
func (x *executor) tokens() model.ValueID { return x.g.Inputs[model.InTokens] }

// run executes nodes over the windows that ids holds, one after another. Values
// it computes are added to v.
func (x *executor) run(nodes []*model.Node, ids []int32, v values) error {
	rows := len(ids)
	for _, n := range nodes {
		w := x.g.Values[n.Out].Width
		if n.Op == model.OpSelect { // every row is wanted
			v[n.Out] = v[n.In[0]]
			continue
		}
		out := v[n.Out] // the caller may have chosen where a value goes
		if out == nil {
			out = x.buffer(rows * w)
			v[n.Out] = out
		}
		if err := x.node(n, ids, v, out, rows, w); err != nil {
			return err
		}
	}
	return nil
}

func (x *executor) node(n *model.Node, ids []int32, v values, out []float32, rows, w int) error {
	in := func(i int) []float32 { return v[n.In[i]] }
	switch n.Op {
	case model.OpEmbedding:
		for i, id := range ids {
			if err := n.Weight.Data.ReadRows(out[i*w:(i+1)*w], int(id)); err != nil {
				return fmt.Errorf("prune: %q: %w", n.Weight.Name, err)
			}
		}
	case model.OpLinear:
		k := x.g.Values[n.In[0]].Width
		linalg.Gemm(x.pool, false, true, rows, w, k, 1, in(0), k, x.weights[n.Weight], k, 0, out, w)
		if n.Bias != nil {
			b, err := x.vector(n.Bias)
			if err != nil {
				return err
			}
			x.eachRow(rows, func(r int) { addTo(out[r*w:(r+1)*w], b) })
		}
	case model.OpRMSNorm:
		gain, err := x.vector(n.Weight)
		if err != nil {
			return err
		}
		a := n.Attr.(model.RMSNorm)
		width := a.Width
		if width == 0 {
			width = w
		}
		src := in(0)
		x.eachRow(rows*w/width, func(r int) { rmsNorm(out[r*width:(r+1)*width], src[r*width:(r+1)*width], gain, a.Eps) })
	case model.OpRoPE:
		a := n.Attr.(model.RoPE)
		x.angles(a)
		copy(out, in(0))
		half := a.HeadDim / 2
		x.eachRow(rows, func(r int) {
			t := r % x.window
			for h := 0; h < w; h += a.HeadDim {
				rope(out[r*w+h:r*w+h+a.HeadDim], x.cos[t*half:(t+1)*half], x.sin[t*half:(t+1)*half])
			}
		})
	case model.OpAttention:
		x.attention(n.Attr.(model.Attention), in(0), in(1), in(2), out, rows)
	case model.OpSiLUGate:
		g, u := in(0), in(1)
		x.eachRow(rows, func(r int) { siluGate(out[r*w:(r+1)*w], g[r*w:(r+1)*w], u[r*w:(r+1)*w]) })
	case model.OpAdd:
		copy(out, in(0))
		b := in(1)
		x.eachRow(rows, func(r int) { addTo(out[r*w:(r+1)*w], b[r*w:(r+1)*w]) })
	default:
		return fmt.Errorf("prune: calibration through %s (node %q): %w", n.Op, n.Name, ErrCalib)
	}
	return nil
}

func (x *executor) eachRow(rows int, f func(r int)) {
	x.pool.Split(rows, 1, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			f(r)
		}
	})
}

func addTo(dst, b []float32) {
	for i, y := range b {
		dst[i] += y
	}
}

func rmsNorm(dst, src, gain []float32, eps float32) {
	var s float64
	for _, v := range src {
		s += float64(v) * float64(v)
	}
	f := float32(1 / math.Sqrt(s/float64(len(src))+float64(eps)))
	for i, v := range src {
		dst[i] = v * f * gain[i]
	}
}

func rope(h, cos, sin []float32) {
	half := len(cos)
	a, b := h[:half], h[half:2*half]
	for i, c := range cos {
		u, v := a[i], b[i]
		a[i], b[i] = u*c-v*sin[i], v*c+u*sin[i]
	}
}

func siluGate(dst, g, u []float32) {
	for i, x := range g {
		dst[i] = x / (1 + float32(math.Exp(float64(-x)))) * u[i]
	}
}

// angles fills the tables of cos and sin for the positions of a window.
func (x *executor) angles(a model.RoPE) {
	half := a.HeadDim / 2
	if len(x.cos) == x.window*half {
		return
	}
	x.cos, x.sin = make([]float32, x.window*half), make([]float32, x.window*half)
	for t := range x.window {
		for i, f := range a.InvFreq {
			s, c := math.Sincos(float64(t) * f)
			x.cos[t*half+i], x.sin[t*half+i] = float32(c)*a.Scale, float32(s)*a.Scale
		}
	}
}

// attention is causal grouped-query attention inside every window; rows of
// queries go in tiles, so that work above the diagonal is mostly skipped.
func (x *executor) attention(a model.Attention, q, k, v, out []float32, rows int) {
	const tile = 64
	d, qw, kw := a.HeadDim, a.Heads*a.HeadDim, a.KVHeads*a.HeadDim
	tiles := (x.window + tile - 1) / tile
	x.pool.Run(rows/x.window*a.Heads, func(job int) {
		win, h := job/a.Heads, job%a.Heads
		kvh := h / (a.Heads / a.KVHeads)
		s := make([]float32, tile*x.window)
		for t := range tiles {
			i0 := t * tile
			m := min(tile, x.window-i0)
			n := i0 + m
			q0 := (win*x.window+i0)*qw + h*d
			k0 := win*x.window*kw + kvh*d
			linalg.Gemm(nil, false, true, m, n, d, a.Scale, q[q0:], qw, k[k0:], kw, 0, s, n)
			for i := range m {
				lo, hi := 0, i0+i+1
				if a.Window > 0 {
					lo = max(0, hi-a.Window)
				}
				softmax(s[i*n:(i+1)*n], lo, hi)
			}
			linalg.Gemm(nil, false, false, m, d, n, 1, s, n, v[k0:], kw, 0, out[q0:], qw)
		}
	})
}

// softmax over p[lo:hi]; the rest becomes 0.
func softmax(p []float32, lo, hi int) {
	top := p[lo]
	for _, v := range p[lo:hi] {
		top = max(top, v)
	}
	var sum float32
	for i := lo; i < hi; i++ {
		e := float32(math.Exp(float64(p[i] - top)))
		p[i] = e
		sum += e
	}
	f := 1 / sum
	for i := lo; i < hi; i++ {
		p[i] *= f
	}
	clear(p[:lo])
	clear(p[hi:])
}

// unpacked returns a copy of a matrix of any form.
func unpacked(w *model.Weight) ([]float32, error) {
	f, err := sparse.Read(w.Data)
	if err != nil {
		return nil, fmt.Errorf("prune: %q: %w", w.Name, err)
	}
	return f, nil
}
