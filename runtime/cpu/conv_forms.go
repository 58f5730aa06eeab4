package cpu

import (
	"fmt"
	"slices"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
)

// Images stay in blocks of channels (conv_block.go) from one convolution to the next:
// a value is in blocks if all that read it can, and a value that some step wants
// otherwise is turned around for it.

// placed is a step of the plan where it runs, with what was fused into it.
type placed struct {
	i         int // in the plan
	kind      placedKind
	in, outs  []model.ValueID
	add       *runtime.TensorStep // the Add whose other operand is in[1] of a convolution
	first     int                 // a convolution that writes into a Concat: its first block
	total     int                 // and the blocks there are; 0: all are its own
	blocks    bool                // it computes in blocks
	free      []model.ValueID
	conv, op  *runtime.TensorStep // of the plan, conv where kind is blockedConv
	channels  int                 // of its output in blocks
	swallowed bool                // it went into another
}

type placedKind uint8

const (
	plainStep   placedKind = iota
	blockedConv            // reads either form, writes blocks
	blockedMean            // reads either form
	blockedPool            // reads and writes blocks
	blockedWide            // the op's own kernel, lane by lane: if an input is in blocks
)

// laneOps compute every number for itself: how an image lies is the same to them.
var laneOps = map[model.Op]bool{model.OpReLU: true, "LeakyRelu": true, "Sigmoid": true, "HardSigmoid": true, "HardSwish": true, "Tanh": true, "Elu": true, "Clip": true}

// arrangement is the order of a program's steps and the form of its values.
type arrangement struct {
	g       *model.Graph
	steps   []*placed
	readers map[model.ValueID][]*placed
	from    map[model.ValueID]*placed
	kept    map[model.ValueID]bool // the graph's outputs
	form    []int                  // channels of a value in blocks, else 0
}

// arrange decides what runs in blocks. With blocked, for measurements, inputs and outputs
// of a single convolution are in blocks whatever it reads.
func arrange(plan *runtime.TensorPlan, blocked bool) *arrangement {
	a := &arrangement{g: plan.Graph, readers: map[model.ValueID][]*placed{}, from: map[model.ValueID]*placed{}, kept: map[model.ValueID]bool{},
		form: make([]int, len(plan.Graph.Values))}
	for _, v := range plan.Graph.Outputs {
		a.kept[v] = true
	}
	for i := range plan.Steps {
		st := &plan.Steps[i]
		s := &placed{i: i, in: st.Node.In, outs: st.Node.Outs, op: st}
		if st.Weight != nil || st.Relu {
			s.outs = []model.ValueID{st.Out}
		}
		if wantsBlocks(a.g, st) {
			s.kind, s.conv, s.blocks = blockedConv, st, true
		}
		a.steps = append(a.steps, s)
		for _, v := range s.outs {
			a.from[v] = s
		}
	}
	a.read()
	if blocks() != nil {
		for _, s := range a.steps {
			a.takeAdd(s)
		}
		a.compact()
		a.decide()
		for _, s := range a.steps {
			a.placeConcat(s)
		}
		a.compact()
	}
	if blocked && len(a.steps) == 1 && len(plan.Steps[0].Shape) == 4 {
		st := &plan.Steps[0]
		a.form[st.Node.In[0]], a.form[st.Out] = st.Shape[1], st.Shape[0]
	}
	a.live()
	return a
}

// read finds who reads each value.
func (a *arrangement) read() {
	clear(a.readers)
	for _, s := range a.steps {
		for _, v := range s.in {
			if v != model.NoValue {
				a.readers[v] = append(a.readers[v], s)
			}
		}
	}
}

func (a *arrangement) compact() {
	a.steps = slices.DeleteFunc(a.steps, func(s *placed) bool { return s.swallowed })
	a.read()
}

// own reports whether a convolution's result is nobody's but one reader's.
func (a *arrangement) own(v model.ValueID) *placed {
	s := a.from[v]
	if s == nil || s.kind != blockedConv || len(a.readers[v]) != 1 || a.kept[v] {
		return nil
	}
	return s
}

// takeAdd lets the later of the convolutions that an Add reads run in its place, with
// the other operand added to its sums.
func (a *arrangement) takeAdd(s *placed) {
	if s.op.Node.Op != model.OpAdd || s.op.Weight != nil || len(s.in) != 2 || s.in[0] == s.in[1] || len(s.outs) != 1 {
		return
	}
	var conv *placed
	var other model.ValueID
	for k, v := range s.in {
		c := a.own(v)
		if c == nil || c.add != nil || c.conv.Relu || conv != nil && c.i < conv.i {
			continue
		}
		if x, y := a.g.Values[v].Shape, a.g.Values[s.in[1-k]].Shape; len(x) == 4 && slices.Equal(x, y) && a.g.Values[s.in[1-k]].Elem == model.ElemF32 && !slices.Contains(x[1:], -1) {
			conv, other = c, s.in[1-k]
		}
	}
	if conv == nil {
		return
	}
	s.kind, s.blocks, s.conv, s.add = blockedConv, true, conv.conv, s.op
	s.i, s.in = conv.i, []model.ValueID{conv.in[0], other}
	conv.swallowed = true
}

// decide finds the form of every value.
func (a *arrangement) decide() {
	channels := func(v model.ValueID) int {
		if v == model.NoValue {
			return 0
		}
		return a.form[v]
	}
	for _, s := range a.steps {
		n, c := s.op.Node, 0
		if len(s.in) == 0 || len(s.outs) != 1 {
			continue
		}
		first := channels(s.in[0])
		switch {
		case s.kind == blockedConv:
			c = s.conv.Shape[0]
		case s.op.Weight != nil || a.g.Values[s.outs[0]].Elem != model.ElemF32:
		case n.Op == model.OpGlobalAveragePool && first > 0:
			s.kind = blockedMean
		case n.Op == model.OpMaxPool && !dilated(n):
			if c = first; c == 0 {
				c = a.turnable(s.in[0])
			}
			if c > 0 {
				s.kind = blockedPool
			}
		case laneOps[n.Op] && first > 0:
			s.kind, c = blockedWide, first
		case (n.Op == model.OpAdd || n.Op == model.OpMul) && len(s.in) == 2:
			c = a.both(s.in[0], s.in[1])
		case n.Op == "Concat" && n.Attr.(*model.TensorOp).Attrs["axis"].I == 1:
			for _, v := range s.in {
				if k := channels(v); k == 0 || k%blockLanes != 0 {
					c = 0
					break
				}
				c += channels(v)
			}
		}
		if c > 0 {
			if s.kind == plainStep {
				s.kind = blockedWide
			}
			s.blocks, s.channels = true, c
			a.form[s.outs[0]] = c
		}
	}
	for v := range a.kept {
		a.form[v] = 0
	}
	for changed := true; changed; {
		changed = false
		for _, s := range a.steps {
			if s.kind == blockedWide && s.blocks && !slices.ContainsFunc(s.in, func(v model.ValueID) bool { return channels(v) > 0 }) {
				s.blocks, changed = false, true
				a.form[s.outs[0]] = 0
			}
			if s.blocks || s.kind == blockedMean {
				continue
			}
			for _, v := range s.in {
				if channels(v) > 0 {
					a.form[v], changed = 0, true
				}
			}
		}
	}
}

// both is how many channels two operands have that can both be in blocks, one of
// which is.
func (a *arrangement) both(x, y model.ValueID) int {
	if x == model.NoValue || y == model.NoValue {
		return 0
	}
	if a.form[x] == 0 {
		x, y = y, x
	}
	c := a.form[x]
	if v := a.g.Values[y]; a.form[y] == c || a.form[y] == 0 && v.Elem == model.ElemF32 && len(v.Shape) == 4 && v.Shape[1] == c {
		return c
	}
	return 0
}

// turnable is how many channels an image has that is worth turning around for a MaxPool.
func (a *arrangement) turnable(v model.ValueID) int {
	if x := a.g.Values[v]; x.Elem == model.ElemF32 && len(x.Shape) == 4 && 2*x.Shape[1] >= blockLanes*channelBlocks(max(0, x.Shape[1])) {
		return x.Shape[1]
	}
	return 0
}

func dilated(n *model.Node) bool {
	return slices.ContainsFunc(n.Attr.(*model.TensorOp).Attrs["dilations"].Ints, func(d int64) bool { return d != 1 })
}

// placeConcat lets convolutions that only a Concat reads write where it would copy to.
func (a *arrangement) placeConcat(s *placed) {
	if s.op.Node.Op != "Concat" || !s.blocks || a.form[s.outs[0]] == 0 {
		return
	}
	for _, v := range s.in {
		if c := a.own(v); c == nil || c.add != nil || c.total > 0 || a.form[v] == 0 { // one that stands here twice has two readers
			return
		}
	}
	first := 0
	for _, v := range s.in {
		c := a.from[v]
		c.first, c.total, c.outs = first, a.form[s.outs[0]]/blockLanes, s.outs
		first += a.form[v] / blockLanes
	}
	s.swallowed = true
}

// live finds where each value is read last.
func (a *arrangement) live() {
	last := map[model.ValueID]*placed{}
	for _, s := range a.steps {
		for _, v := range append(slices.Clone(s.outs), s.in...) {
			if v != model.NoValue {
				last[v] = s
			}
		}
	}
	for v, s := range last {
		if !a.kept[v] && a.g.Constants[v] == nil {
			s.free = append(s.free, v)
		}
	}
}

// wants is the form that a step reads its k-th input in.
func (a *arrangement) wants(s *placed, k int) bool {
	if s.in[k] == model.NoValue {
		return false
	}
	in := a.form[s.in[k]] > 0
	switch s.kind {
	case blockedConv:
		return in || k > 0 || winograd(s.conv)
	case blockedMean:
		return in
	case blockedPool:
		return s.blocks
	case blockedWide:
		return s.blocks && (k == 0 || !laneOps[s.op.Node.Op])
	}
	return false
}

// blockConv compiles a convolution with what was fused into it.
func (p *tensorProgram) blockConv(at *placed) (tensorStep, error) {
	st := *at.conv
	st.Relu = at.op.Relu
	s, err := newBlockConv(&st)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", st.Node.Weight.Name, err)
	}
	s.blocked = p.order.wants(at, 0)
	if at.add != nil {
		s.add = &opStep{node: at.add.Node, relu: at.add.Relu}
	}
	if at.total > 0 {
		s.first, s.total = at.first, at.total
	}
	p.weights, p.bytes[at.i] = p.weights.Add(s.bytes()), s.bytes()
	return s, nil
}
