package runtime

import (
	"fmt"
	"math"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tensorop"
)

// newTensorPlan checks that every op can run, chooses the kernel of every weight,
// and fuses what follows a convolution or Linear: batch norm into its weights, an
// added constant into its bias, and Relu; a Relu after an Add too.
func newTensorPlan(g *model.Graph, o Options, pl *planner) (*TensorPlan, error) {
	p := &TensorPlan{Graph: g, Group: o.Group}
	f := newTensorFusion(g)
	for _, n := range g.Nodes {
		if n.Op != model.OpLinear {
			if err := tensorop.Has(n); err != nil {
				return nil, fmt.Errorf("runtime: %w: %w", err, ErrUnsupported)
			}
		}
		if f.skip[n] {
			continue
		}
		st := TensorStep{Node: n, Out: n.Out}
		if n.Weight != nil {
			var err error
			if err = f.weight(&st); err != nil {
				return nil, err
			}
			if packs(n) {
				if st.Choice, err = pl.choose(n); err != nil {
					return nil, err
				}
				st.Kernel = st.Choice.Kernel
			}
		}
		if n.Op == model.OpAdd && g.Values[n.Out].Elem == model.ElemF32 {
			f.relu(&st)
		}
		p.Steps = append(p.Steps, st)
	}
	p.free()
	return p, nil
}

// packs reports whether a node is one matrix product with a packed weight: a
// Linear, or a convolution that is not cut into groups.
func packs(n *model.Node) bool {
	if n.Op != model.OpConv {
		return true
	}
	g, ok := n.Attr.(*model.TensorOp).Attrs["group"]
	return !ok || g.I == 1
}

// free finds where each value is read last.
func (p *TensorPlan) free() {
	last := map[model.ValueID]int{}
	for i, st := range p.Steps {
		for _, v := range st.Node.In {
			if v != model.NoValue {
				last[v] = i
			}
		}
		for _, v := range st.Node.Outs {
			if _, ok := last[v]; !ok && v != model.NoValue {
				last[v] = i
			}
		}
		if _, ok := last[st.Out]; !ok {
			last[st.Out] = i
		}
	}
	for _, v := range p.Graph.Outputs {
		delete(last, v)
	}
	for v, i := range last {
		if p.Graph.Constants[v] == nil {
			p.Steps[i].Free = append(p.Steps[i].Free, v)
		}
	}
}

// tensorFusion knows who reads a value.
type tensorFusion struct {
	g       *model.Graph
	readers map[model.ValueID][]*model.Node
	kept    map[model.ValueID]bool // outputs of the graph
	skip    map[*model.Node]bool   // nodes that went into another
}

func newTensorFusion(g *model.Graph) *tensorFusion {
	f := &tensorFusion{g, map[model.ValueID][]*model.Node{}, map[model.ValueID]bool{}, map[*model.Node]bool{}}
	for _, n := range g.Nodes {
		for _, v := range n.In {
			f.readers[v] = append(f.readers[v], n)
		}
	}
	for _, v := range g.Outputs {
		f.kept[v] = true
	}
	return f
}

// only is the one node that reads v, nil where others do too.
func (f *tensorFusion) only(v model.ValueID) *model.Node {
	if r := f.readers[v]; len(r) == 1 && !f.kept[v] {
		return r[0]
	}
	return nil
}

// weight fills a step of a Conv or Linear and takes in what follows it.
func (f *tensorFusion) weight(st *TensorStep) error {
	n := st.Node
	st.Weight, st.Shape = n.Weight.Data, n.Weight.Shape
	rows, _ := st.Weight.Dims()
	if n.Bias != nil {
		var err error
		if st.Bias, err = n.Bias.Vector(); err != nil {
			return err
		}
	}
	if e := f.g.Values[n.In[0]].Elem; e != model.ElemF32 && e != model.ElemNone || e == model.ElemNone && n.Weight.Data.DType() != sparse.F32 { // half floats round after every op
		return nil
	}
	if bn := f.only(st.Out); bn != nil && bn.Op == model.OpBatchNorm && n.Op == model.OpConv && len(bn.Outs) == 1 && bn.In[0] == st.Out {
		if v := f.vectors(bn, rows); v != nil {
			eps := 1e-5
			a := bn.Attr.(*model.TensorOp).Attrs
			if e, ok := a["epsilon"]; ok {
				eps = float64(e.F)
			}
			if a["training_mode"].I == 0 {
				f.fold(st, v, eps)
				f.skip[bn] = true
				st.Out = bn.Out
			}
		}
	}
	if add := f.only(st.Out); add != nil && add.Op == model.OpAdd && len(add.In) == 2 {
		other := add.In[0]
		if other == st.Out {
			other = add.In[1]
		}
		if b := f.channelBias(other, add, st, rows); b != nil {
			if st.Bias == nil {
				st.Bias = b
			} else {
				sum := make([]float32, rows)
				for i := range sum {
					sum[i] = st.Bias[i] + b[i]
				}
				st.Bias = sum
			}
			f.skip[add] = true
			st.Out = add.Out
		}
	}
	f.relu(st)
	return nil
}

// relu takes a Relu in that alone reads a step's result.
func (f *tensorFusion) relu(st *TensorStep) {
	if r := f.only(st.Out); r != nil && r.Op == model.OpReLU {
		st.Relu = true
		f.skip[r] = true
		st.Out = r.Out
	}
}

// vectors are scale, bias, mean and variance of a batch norm where they are
// constants of n numbers.
func (f *tensorFusion) vectors(bn *model.Node, n int) [][]float32 {
	if len(bn.In) != 5 {
		return nil
	}
	var out [][]float32
	for _, id := range bn.In[1:] {
		t := f.g.Constants[id]
		if t == nil {
			return nil
		}
		v, ok := t.Data.([]float32)
		if !ok || len(v) != n {
			return nil
		}
		out = append(out, v)
	}
	return out
}

// fold: (w*x + b - mean) / sqrt(var + eps) * scale + bias, all in one product.
func (f *tensorFusion) fold(st *TensorStep, v [][]float32, eps float64) {
	rows, _ := st.Weight.Dims()
	by, bias := make([]float32, rows), make([]float32, rows)
	for i := range rows {
		a := float64(v[0][i]) / math.Sqrt(float64(v[3][i])+eps)
		b := 0.0
		if st.Bias != nil {
			b = float64(st.Bias[i])
		}
		by[i] = float32(a)
		bias[i] = float32((b-float64(v[2][i]))*a + float64(v[1][i]))
	}
	st.Weight, st.Bias = scaledRows{st.Weight, by}, bias
}

// channelBias is a constant that adds one number to every output channel.
func (f *tensorFusion) channelBias(v model.ValueID, add *model.Node, st *TensorStep, n int) []float32 {
	t := f.g.Constants[v]
	if t == nil {
		return nil
	}
	d, ok := t.Data.([]float32)
	if !ok || len(d) != n {
		return nil
	}
	if a := add.Attr.(*model.TensorOp); a.Version < 7 && a.Attrs["axis"].Kind != 0 {
		return nil
	}
	s := t.Shape
	if st.Node.Op == model.OpConv { // [C 1 ... 1] against [N C ...]
		spatial := len(st.Shape) - 2
		if len(s) == spatial+2 && s[0] == 1 {
			s = s[1:]
		}
		if len(s) != spatial+1 || s[0] != n {
			return nil
		}
		return d
	}
	// [... 1 C] against [..., C]; more dimensions than the product has would widen it.
	if len(s) == 1 && s[0] == n || len(s) == 2 && s[0] == 1 && s[1] == n {
		return d
	}
	return nil
}

// scaledRows is a matrix whose rows are multiplied by a number each; what is zero
// stays zero.
type scaledRows struct {
	sparse.Matrix
	by []float32
}

// ReadRows implements sparse.Matrix.
func (m scaledRows) ReadRows(dst []float32, r0 int) error {
	if err := m.Matrix.ReadRows(dst, r0); err != nil {
		return err
	}
	_, c := m.Dims()
	for i := range dst {
		dst[i] *= m.by[r0+i/c]
	}
	return nil
}
