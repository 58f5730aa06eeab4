package prune

import (
	"fmt"

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
	rope    *linalg.Rope
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
			x.eachRow(rows, func(r int) { linalg.Add(out[r*w:(r+1)*w], out[r*w:(r+1)*w], b) })
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
		x.eachRow(rows*w/width, func(r int) { linalg.RMSNorm(out[r*width:(r+1)*width], src[r*width:(r+1)*width], gain, a.Eps) })
	case model.OpRoPE:
		if x.rope == nil {
			a := n.Attr.(model.RoPE)
			x.rope = linalg.NewRope(a.InvFreq, a.Scale, x.window)
		}
		src := in(0)
		x.eachRow(rows, func(r int) {
			row := out[r*w : (r+1)*w]
			copy(row, src[r*w:(r+1)*w])
			x.rope.Rotate(row, r%x.window)
		})
	case model.OpAttention:
		a := n.Attr.(model.Attention)
		seqs := make([]int, rows/x.window)
		for i := range seqs {
			seqs[i] = x.window
		}
		linalg.Attention(x.pool, linalg.AttentionShape{Heads: a.Heads, KVHeads: a.KVHeads, HeadDim: a.HeadDim, Scale: a.Scale, Window: a.Window},
			seqs, in(0), in(1), in(2), out)
	case model.OpSiLUGate:
		g, u := in(0), in(1)
		x.eachRow(rows, func(r int) { linalg.SiLUGate(out[r*w:(r+1)*w], g[r*w:(r+1)*w], u[r*w:(r+1)*w]) })
	case model.OpAdd:
		a, b := in(0), in(1)
		x.eachRow(rows, func(r int) { linalg.Add(out[r*w:(r+1)*w], a[r*w:(r+1)*w], b[r*w:(r+1)*w]) })
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

// unpacked returns a copy of a matrix of any form.
func unpacked(w *model.Weight) ([]float32, error) {
	f, err := sparse.Read(w.Data)
	if err != nil {
		return nil, fmt.Errorf("prune: %q: %w", w.Name, err)
	}
	return f, nil
}
