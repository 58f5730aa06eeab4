package backendtest

import (
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// net builds small graphs and the plainest plan for them: a buffer per value.
type net struct {
	g      model.Graph
	plan   runtime.Plan
	kernel runtime.Kernel // of Linears and Embeddings
}

func newNet(maxRows, maxSelect int) *net {
	n := &net{}
	n.plan = runtime.Plan{Graph: &n.g, MaxRows: maxRows, MaxSelect: maxSelect}
	return n
}

func (n *net) value(width int, selected bool, input int) model.ValueID {
	id := model.ValueID(len(n.g.Values))
	n.g.Values = append(n.g.Values, model.Value{Width: width})
	b := runtime.Buffer{Width: width, Selected: selected, Input: input}
	if input < 0 {
		b.Offset = n.plan.Arena
		rows := n.plan.MaxRows
		if selected {
			rows = n.plan.MaxSelect
		}
		n.plan.Arena += (width*rows + 15) &^ 15
	}
	n.plan.Buffers = append(n.plan.Buffers, b)
	return id
}

// input adds an input of the graph.
func (n *net) input(width int) model.ValueID {
	id := n.value(width, false, len(n.g.Inputs))
	n.g.Inputs = append(n.g.Inputs, id)
	n.plan.Inputs = append(n.plan.Inputs, int(id))
	return id
}

// node adds a step that writes a value of its own.
func (n *net) node(op model.Op, width int, attr any, w, bias *model.Weight, in ...model.ValueID) model.ValueID {
	sel := op == model.OpSelect || n.plan.Buffers[in[0]].Selected
	out := n.value(width, sel, -1)
	nd := &model.Node{Op: op, Name: string(op), In: in, Out: out, Weight: w, Bias: bias, Attr: attr}
	n.g.Nodes = append(n.g.Nodes, nd)
	st := runtime.Step{Node: nd, Out: int(out), Residual: -1, Kernel: runtime.Kernel{Op: op, Layout: sparse.LayoutDense, Act: sparse.F32}}
	for _, v := range in {
		st.In = append(st.In, int(v))
	}
	if op == model.OpLinear || op == model.OpEmbedding {
		st.Kernel = n.kernel
		st.Kernel.Op = op
	}
	n.plan.Steps = append(n.plan.Steps, st)
	return out
}

// last is the step added last.
func (n *net) last() *runtime.Step { return &n.plan.Steps[len(n.plan.Steps)-1] }

// output makes v the result.
func (n *net) output(v model.ValueID) *runtime.Plan {
	n.g.Outputs = append(n.g.Outputs, v)
	n.plan.Outputs = append(n.plan.Outputs, int(v))
	return &n.plan
}

// matrix and vector are weights in memory.
func matrix(name string, rows, cols int, w []float32) *model.Weight {
	return &model.Weight{Name: name, Shape: []int{rows, cols}, Data: sparse.NewDense(rows, cols, w)}
}

func vector(name string, w []float32) *model.Weight {
	return &model.Weight{Name: name, Shape: []int{len(w)}, Data: sparse.NewDense(1, len(w), w)}
}
