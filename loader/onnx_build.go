package loader

import (
	"fmt"
	"math"
	"slices"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

func f32bits(u uint64) float32 { return math.Float32frombits(uint32(u)) }

// resolve turns names into values, constants out of Constant nodes, and puts the
// nodes in an order in which every value is written before it is read.
func (d *onnx) resolve() error {
	readers := map[model.ValueID][]int{} // nodes that wait for a value
	waits := make([]int, len(d.nodes))
	for _, n := range d.nodes {
		for _, name := range n.out {
			if name == "" {
				n.n.Outs = append(n.n.Outs, model.NoValue)
				continue
			}
			id, err := d.write(name, "node "+n.n.Name, n.at)
			if err != nil {
				return err
			}
			n.n.Outs = append(n.n.Outs, id)
		}
		if len(n.n.Outs) == 0 {
			return fault(ErrGraph, n.n.Name, n.at, fmt.Sprintf("node of op %s", n.n.Op), "an output", "none")
		}
		n.n.Out = n.n.Outs[0]
	}
	for i, n := range d.nodes {
		for _, name := range n.in {
			id := model.NoValue
			if name != "" {
				var ok bool
				if id, ok = d.ids[name]; !ok || d.origin[id] == "" {
					return fault(ErrGraph, n.n.Name, n.at, fmt.Sprintf("input of op %s", n.n.Op), "a value of the graph", name)
				}
				if by := d.origin[id]; by != "initializer" && by != "input" {
					readers[id] = append(readers[id], i)
					waits[i]++
				}
			}
			n.n.In = append(n.n.In, id)
		}
	}
	var ready []int
	for i := range d.nodes {
		if waits[i] == 0 {
			ready = append(ready, i)
		}
	}
	done := 0
	for ; len(ready) > 0; done++ {
		i := ready[0]
		ready = ready[1:]
		n := d.nodes[i]
		var next []int
		for _, v := range n.n.Outs {
			for _, r := range readers[v] {
				if waits[r]--; waits[r] == 0 {
					next = append(next, r)
				}
			}
		}
		ready = append(ready, next...)
		t, err := d.constantNode(n)
		if err != nil {
			return err
		}
		if t != nil {
			d.constant(n.n.Out, t)
			continue
		}
		d.g.Nodes = append(d.g.Nodes, n.n)
	}
	if done < len(d.nodes) {
		for i, n := range d.nodes {
			if waits[i] > 0 {
				return fault(ErrGraph, n.n.Name, n.at, fmt.Sprintf("graph: op %s and others read each other's results", n.n.Op), "no cycle", nil)
			}
		}
	}
	for _, name := range d.outputs {
		id := d.ids[name]
		if d.origin[id] == "" {
			return fault(ErrGraph, name, -1, "output of the graph", "a value that something writes", nil)
		}
		d.g.Outputs = append(d.g.Outputs, id)
	}
	return nil
}

// constantNode is the value of a Constant node, nil for any other op.
func (d *onnx) constantNode(n *onnxNode) (*model.Tensor, error) {
	if n.n.Op != "Constant" || n.op.Domain != "" {
		return nil, nil
	}
	for name, a := range n.op.Attrs {
		switch name {
		case "value", "sparse_value":
			if a.T != nil {
				return a.T, nil
			}
		case "value_float":
			return model.F32Tensor([]float32{a.F}), nil
		case "value_floats":
			return model.F32Tensor(a.Floats, len(a.Floats)), nil
		case "value_int":
			return model.I64Tensor([]int64{a.I}), nil
		case "value_ints":
			return model.I64Tensor(a.Ints, len(a.Ints)), nil
		case "value_string":
			return &model.Tensor{Elem: model.ElemString, Data: []string{a.S}}, nil
		case "value_strings":
			return &model.Tensor{Elem: model.ElemString, Shape: []int{len(a.Strings)}, Data: a.Strings}, nil
		}
	}
	return nil, fault(ErrFormat, n.n.Name, n.at, "Constant", "one value", "none")
}

// weights finds the nodes whose parameters are matrices that can be pruned and
// packed: convolutions, Gemm, and MatMul by a constant. Gemm and MatMul become
// Linear: out = in * weight^T (+ bias) over the last dimension.
func (d *onnx) weights() error {
	made := map[weightKey]*model.Weight{}
	for _, n := range d.g.Nodes {
		op := n.Attr.(*model.TensorOp)
		if op.Domain != "" || len(n.In) < 2 || n.In[1] == model.NoValue {
			continue
		}
		var transposed bool
		bias := -1
		switch n.Op {
		case "Conv":
			if len(n.In) == 3 {
				bias = 2
			}
		case "Gemm":
			a := op.Attrs
			if alpha, ok := a["alpha"]; ok && alpha.F != 1 || a["transA"].I != 0 {
				continue
			}
			if len(n.In) == 3 && n.In[2] != model.NoValue {
				if beta, ok := a["beta"]; ok && beta.F != 1 {
					continue
				}
				bias = 2
			}
			transposed = a["transB"].I == 0
		case "MatMul":
			transposed = true
		default:
			continue
		}
		w, err := d.matrix(weightKey{n.In[1], transposed}, n.Op == "Conv", made)
		if err != nil {
			return err
		}
		if w == nil {
			continue
		}
		rows, _ := w.Data.Dims()
		var b *model.Weight
		if bias > 0 && n.In[bias] != model.NoValue {
			if b, err = d.bias(n.In[bias], rows, made); err != nil {
				return err
			}
			if b == nil {
				continue // not one number a row: Gemm as it stands does it
			}
		}
		n.Weight, n.Bias = w, b
		n.In = n.In[:1]
		if n.Op != "Conv" {
			n.Op = model.OpLinear
			op.Attrs = nil
		}
	}
	seen := map[*model.Weight]bool{}
	for _, n := range d.g.Nodes {
		for _, w := range []*model.Weight{n.Weight, n.Bias} {
			if w != nil && !seen[w] {
				seen[w] = true
				d.g.Weights = append(d.g.Weights, w)
			}
		}
	}
	// What is left of sparse initializers is read by ops that know no sparsity.
	used := map[model.ValueID]bool{}
	for _, n := range d.g.Nodes {
		for _, v := range n.In {
			used[v] = true
		}
	}
	for _, v := range d.g.Outputs {
		used[v] = true
	}
	for v, s := range d.sparse {
		if used[v] {
			t, err := s.dense(d)
			if err != nil {
				return err
			}
			d.constant(v, t)
		}
	}
	return nil
}

type weightKey struct {
	v          model.ValueID
	transposed bool
}

// matrix makes a weight of a constant; nil where it is none, or of another type.
func (d *onnx) matrix(k weightKey, conv bool, made map[weightKey]*model.Weight) (*model.Weight, error) {
	if w := made[k]; w != nil {
		return w, nil
	}
	name := d.g.Values[k.v].Name
	shape := d.g.Values[k.v].Shape
	t, s := d.g.Constants[k.v], d.sparse[k.v]
	if t == nil && s == nil || !conv && len(shape) != 2 || conv && len(shape) < 3 || slices.Contains(shape, 0) {
		return nil, nil
	}
	rows := shape[0]
	cols := 1
	for _, n := range shape[1:] {
		cols *= n
	}
	w := &model.Weight{Name: name, Shape: shape}
	if k.transposed {
		w.Shape = []int{cols, rows}
		if made[weightKey{k.v, false}] != nil {
			w.Name += ".T"
		}
	} else if made[weightKey{k.v, true}] != nil {
		w.Name += ".T"
	}
	var err error
	if s != nil {
		w.Data, err = s.matrix(d, k.transposed)
	} else {
		w.Data, err = d.denseMatrix(t, rows, cols, k.transposed, name)
	}
	if w.Data == nil || err != nil {
		return nil, err
	}
	if !d.o.nonFinite {
		if err := finite(w.Data, name); err != nil {
			return nil, err
		}
	}
	made[k] = w
	return w, nil
}

func finite(m sparse.Matrix, name string) error {
	return sparse.EachRow(m, func(r int, row []float32) error {
		for c, v := range row {
			if v-v != 0 {
				return fault(ErrNonFinite, name, -1, "weight", "finite numbers (or --allow-non-finite)", fmt.Sprintf("%v at [%d %d]", v, r, c))
			}
		}
		return nil
	})
}

func (d *onnx) denseMatrix(t *model.Tensor, rows, cols int, transposed bool, name string) (sparse.Matrix, error) {
	m := &sparse.Dense{R: rows, C: cols}
	if transposed {
		m.R, m.C = cols, rows
		if err := d.f.spend(int64(rows)*int64(cols)*int64(t.Elem.Size()), name, -1); err != nil {
			return nil, err
		}
	}
	switch t.Elem {
	case model.ElemF32:
		m.Values = sparse.Values{Type: sparse.F32, F32: maybeTransposed(t.Data.([]float32), rows, cols, transposed)}
	case model.ElemF16:
		m.Values = sparse.Values{Type: sparse.F16, U16: maybeTransposed(t.Data.([]uint16), rows, cols, transposed)}
	case model.ElemBF16:
		m.Values = sparse.Values{Type: sparse.BF16, U16: maybeTransposed(t.Data.([]uint16), rows, cols, transposed)}
	default:
		return nil, nil
	}
	return m, nil
}

func maybeTransposed[T any](x []T, rows, cols int, transposed bool) []T {
	if !transposed {
		return x
	}
	y := make([]T, len(x))
	for r := range rows {
		for c := range cols {
			y[c*rows+r] = x[r*cols+c]
		}
	}
	return y
}

// bias makes a one-row weight of a constant of n numbers ([n] or [1 n]).
func (d *onnx) bias(v model.ValueID, n int, made map[weightKey]*model.Weight) (*model.Weight, error) {
	k := weightKey{v, false}
	if w := made[k]; w != nil {
		if _, c := w.Data.Dims(); c == n && w.Rank1() {
			return w, nil
		}
		return nil, nil
	}
	t := d.g.Constants[v]
	if s := d.sparse[v]; s != nil {
		var err error
		if t, err = s.dense(d); err != nil {
			return nil, err
		}
	}
	if t == nil || t.Len() != n || len(t.Shape) > 2 || len(t.Shape) == 2 && t.Shape[0] != 1 {
		return nil, nil
	}
	m, err := d.denseMatrix(t, 1, n, false, d.g.Values[v].Name)
	if m == nil || err != nil {
		return nil, err
	}
	if !d.o.nonFinite {
		if err := finite(m, d.g.Values[v].Name); err != nil {
			return nil, err
		}
	}
	w := &model.Weight{Name: d.g.Values[v].Name, Shape: []int{n}, Data: m}
	made[k] = w
	return w, nil
}

// drop forgets constants that nothing reads any more.
func (d *onnx) drop() {
	used := map[model.ValueID]bool{}
	for _, n := range d.g.Nodes {
		for _, v := range n.In {
			used[v] = true
		}
	}
	for _, v := range d.g.Outputs {
		used[v] = true
	}
	for v := range d.g.Constants {
		if !used[v] {
			delete(d.g.Constants, v)
		}
	}
}
