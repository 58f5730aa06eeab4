package runtime

import (
	"fmt"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// Options say how a graph is to be run; the zero value is the default.
type Options struct {
	DType   sparse.DType // of Linear weights: F32, F16 (default), BF16, Int8, Int4
	Group   int          // columns per scale of Int4 and Int8; 0: what the file has in that type, else for Int4 64, for Int8 the whole row
	Sparse  SparseMode
	Layout  sparse.Layout // with SparseForce
	Chunk   int           // largest number of rows of a step: prefill chunk or batch; default 256
	Select  int           // rows that get logits in one step; default 16
	Context int           // tokens of KV cache over all sequences; default the model's context, at most 8192
	KVType  sparse.DType  // F16 (default) or F32 (default with DType F32)
	Batch   int           // sequences of a decode step that the planner also times forms for; default none
	Hidden  bool          // a Lockstep of a language model can also give hidden states
}

// SparseMode says whether sparse forms may be chosen.
type SparseMode uint8

// The modes: the planner's choice, always dense, or Options.Layout wherever a
// weight has that pattern.
const (
	SparseAuto SparseMode = iota
	SparseOff
	SparseForce
)

// Step is one kernel call of a plan.
type Step struct {
	Node   *model.Node
	Kernel Kernel
	In     []int // buffers
	Out    int   // buffer
	// Residual is a buffer that a Linear adds to its result, -1 for none; it may
	// be Out itself.
	Residual int
	Choice   *Choice // Linear and Embedding: what runs and why
}

// Buffer is a slot of the arena: room for Width numbers for each row of a step.
// A value in it is contiguous, row-major with its own width (model.Value.Width),
// which may be less than the slot's.
type Buffer struct {
	Width    int
	Selected bool // rows are those of OpSelect, not of the batch
	Input    int  // index of the graph input it is, -1 otherwise
	Offset   int  // first float in the arena
}

// KV describes the state of attention: one cache of keys and values per layer,
// in pages of PageTokens tokens that sequences share.
type KV struct {
	Widths     []int // per layer: KVHeads*HeadDim
	PageTokens int
	Pages      int
	Type       sparse.DType
}

// PageBytes is the memory of one page over all layers.
func (k KV) PageBytes() int64 {
	var w int64
	for _, n := range k.Widths {
		w += int64(n)
	}
	return 2 * w * int64(k.PageTokens) * int64(k.Type.Bits()) / 8
}

// Plan is a graph with every decision taken: which kernel runs each step, in
// which layout, over which buffers.
type Plan struct {
	Graph     *model.Graph
	Steps     []Step
	Buffers   []Buffer
	Arena     int   // floats
	Inputs    []int // buffers
	Outputs   []int
	MaxRows   int
	MaxSelect int
	KV        KV
	Group     int // see Options.Group
}

// PageTokens is the size of a KV page. 32 keeps waste per sequence small and
// still gives attention whole cache lines to stream.
const PageTokens = 32

func (o *Options) defaults(g *model.Graph) error {
	if o.DType == 0 {
		o.DType = sparse.F16
		if g.Tensors() { // their activations are float32 everywhere: weights too
			o.DType = sparse.F32
		}
	}
	switch o.DType {
	case sparse.F32, sparse.F16, sparse.BF16, sparse.Int8, sparse.Int4:
	default:
		return fmt.Errorf("runtime: weights in %v: %w", o.DType, ErrOption)
	}
	if o.Group == 0 && o.DType.Quantised() {
		var err error
		if o.Group, err = storedGroup(g, o.DType); err != nil {
			return err
		}
	}
	if o.Chunk == 0 {
		o.Chunk = 256
	}
	if o.Select == 0 {
		o.Select = 16
	}
	if o.KVType == 0 {
		o.KVType = sparse.F16
		if o.DType == sparse.F32 {
			o.KVType = sparse.F32
		}
	}
	if g.Config != nil && o.Context == 0 {
		o.Context = min(g.Config.Context, 8192)
	}
	if o.Chunk < 1 || o.Chunk > 1<<16 || o.Select < 1 || o.Select > 1<<16 || o.Context < 0 || o.Context > 1<<28 || o.Group < 0 || o.Batch < 0 || o.Batch > 1<<16 {
		return fmt.Errorf("runtime: chunk %d, select %d, context %d, group %d: %w", o.Chunk, o.Select, o.Context, o.Group, ErrOption)
	}
	return nil
}

// defaultGroup is the columns per scale of int4 where the file says nothing.
const defaultGroup = 64

// storedGroup is the columns per scale of a model that is stored in type t, int8 or
// int4: running it in other groups would round its weights again. It is that of the
// first Linear in that type; int8 in groups that no kernel knows is left to the row.
func storedGroup(g *model.Graph, t sparse.DType) (int, error) {
	group := 0
	if t == sparse.Int4 {
		group = defaultGroup
	}
	for _, n := range g.Linears() {
		if n.Weight == nil || storedType(n.Weight.Data.DType()) != t {
			continue
		}
		m, err := sparse.Load(n.Weight.Data)
		if err != nil {
			return 0, err
		}
		if q := sparse.QuantOf(m); q != nil && q.Group > 0 && (t == sparse.Int4 || q.Group%32 == 0) {
			group = q.Group
		}
		break
	}
	return group, nil
}

// storedType is the type that a matrix stored in t has once it is loaded.
func storedType(t sparse.DType) sparse.DType {
	switch t {
	case sparse.Q8_0:
		return sparse.Int8
	case sparse.Q4_0:
		return sparse.Int4
	}
	return t
}

// newPlan lays out steps and buffers; choose decides the kernel of every Linear.
func newPlan(g *model.Graph, o Options, choose func(*model.Node) (*Choice, error)) (*Plan, error) {
	p := &Plan{Graph: g, MaxRows: o.Chunk, MaxSelect: min(o.Select, o.Chunk), Group: o.Group}
	if g.Config != nil {
		p.KV = KV{PageTokens: PageTokens, Pages: (o.Context + PageTokens - 1) / PageTokens, Type: o.KVType}
		for i := range g.Config.Layers {
			_, kv, _ := g.Config.Layer(i)
			p.KV.Widths = append(p.KV.Widths, kv*g.Config.HeadDim)
		}
	}
	uses := make([]int, len(g.Values)) // how many nodes still read a value
	for _, n := range g.Nodes {
		for _, v := range n.In {
			uses[v]++
		}
	}
	for _, v := range g.Outputs {
		uses[v]++
	}
	fused := fuseAdds(g, uses)

	buf := make([]int, len(g.Values)) // value -> buffer
	selected := make([]bool, len(g.Values))
	var free []int
	take := func(width int, sel bool) int {
		best := -1
		for i, b := range free {
			if p.Buffers[b].Selected != sel {
				continue
			}
			// The smallest that is large enough, else the largest, which then grows.
			if best < 0 || better(p.Buffers[b].Width, p.Buffers[free[best]].Width, width) {
				best = i
			}
		}
		if best < 0 {
			p.Buffers = append(p.Buffers, Buffer{Width: width, Selected: sel, Input: -1})
			return len(p.Buffers) - 1
		}
		b := free[best]
		free = append(free[:best], free[best+1:]...)
		p.Buffers[b].Width = max(p.Buffers[b].Width, width)
		return b
	}
	for i, v := range g.Inputs {
		p.Buffers = append(p.Buffers, Buffer{Width: g.Values[v].Width, Input: i})
		buf[v] = len(p.Buffers) - 1
		p.Inputs = append(p.Inputs, buf[v])
	}
	release := func(v model.ValueID) {
		if uses[v]--; uses[v] == 0 && p.Buffers[buf[v]].Input < 0 {
			free = append(free, buf[v])
		}
	}
	for _, n := range g.Nodes {
		if fused.skip[n] {
			continue
		}
		st := Step{Node: n, Residual: -1, Kernel: Kernel{Op: n.Op, Layout: sparse.LayoutDense, Act: sparse.F32}}
		sel := n.Op == model.OpSelect || selected[n.In[0]]
		out := n.Out
		for _, v := range n.In {
			st.In = append(st.In, buf[v])
		}
		if add := fused.into[n]; add != nil {
			other := add.In[0]
			if other == n.Out {
				other = add.In[1]
			}
			st.Residual = buf[other]
			out = add.Out
			// The sum replaces the residual in place where nobody reads that again.
			if uses[other] == 1 && p.Buffers[buf[other]].Input < 0 {
				uses[other] = 0
				buf[out] = buf[other]
			} else {
				buf[out] = take(g.Values[out].Width, sel)
				release(other)
			}
		} else {
			buf[out] = take(g.Values[out].Width, sel)
		}
		selected[out] = sel
		st.Out = buf[out]
		for _, v := range n.In {
			release(v)
		}
		if n.Op == model.OpLinear || n.Op == model.OpEmbedding {
			c, err := choose(n)
			if err != nil {
				return nil, err
			}
			st.Choice, st.Kernel = c, c.Kernel
		}
		if n.Weight != nil && st.Kernel.Weight == 0 {
			st.Kernel.Weight = sparse.F32
		}
		p.Steps = append(p.Steps, st)
	}
	for i := range p.Buffers {
		b := &p.Buffers[i]
		if b.Input >= 0 {
			continue
		}
		rows := p.MaxRows
		if b.Selected {
			rows = p.MaxSelect
		}
		b.Offset = p.Arena
		p.Arena += (b.Width*rows + 15) &^ 15
	}
	for _, v := range g.Outputs {
		p.Outputs = append(p.Outputs, buf[v])
	}
	return p, nil
}

func better(w, than, want int) bool {
	if than >= want {
		return w >= want && w < than
	}
	return w > than
}

type fusion struct {
	into map[*model.Node]*model.Node // Linear -> the Add it absorbs
	skip map[*model.Node]bool        // absorbed Adds
}

// fuseAdds finds Adds of a Linear's only use: the residual is then added while
// the result is still in registers.
func fuseAdds(g *model.Graph, uses []int) fusion {
	f := fusion{map[*model.Node]*model.Node{}, map[*model.Node]bool{}}
	by := map[model.ValueID]*model.Node{}
	order := map[*model.Node]int{}
	for i, n := range g.Nodes {
		by[n.Out] = n
		order[n] = i
	}
	for _, add := range g.Nodes {
		if add.Op != model.OpAdd || add.In[0] == add.In[1] {
			continue
		}
		for k, v := range add.In {
			lin := by[v]
			other := by[add.In[1-k]]
			if lin == nil || lin.Op != model.OpLinear || uses[v] != 1 || f.into[lin] != nil {
				continue
			}
			// The other summand must exist before the Linear runs.
			if other != nil && order[other] > order[lin] {
				continue
			}
			f.into[lin], f.skip[add] = add, true
			break
		}
	}
	return f
}
