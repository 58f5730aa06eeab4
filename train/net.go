package train

import (
	"fmt"
	"slices"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// Param is one trained weight.
type Param struct {
	Name   string
	Rows   int // out channels of a matrix; 1 for a vector
	Cols   int
	W      []float32 // [Rows, Cols]
	Grad   []float32 // of the last Backward
	Frozen bool      // steps leave it as it is
	// NoDecay spares it weight decay; set for vectors (norms, biases).
	NoDecay bool

	mask   *sparse.Mask
	drop   []int32 // positions that the mask drops
	keep   []int32 // the others, where they are few
	ties   *ties   // nil: every weight for itself
	weight *model.Weight
}

// Mask is the mask in force, or nil.
func (p *Param) Mask() *sparse.Mask { return p.mask }

// SetMask prunes the weights that m drops and keeps them at zero; nil lifts the mask.
func (p *Param) SetMask(m *sparse.Mask) error {
	p.mask, p.drop, p.keep = nil, nil, nil
	if m == nil {
		return nil
	}
	if m.R != p.Rows || m.C != p.Cols {
		return fmt.Errorf("train: %q: mask: want [%d %d], got [%d %d]: %w", p.Name, p.Rows, p.Cols, m.R, m.C, sparse.ErrShape)
	}
	p.mask = m
	for r := range p.Rows {
		for c := range p.Cols {
			if !m.Kept(r, c) {
				p.drop = append(p.drop, int32(r*p.Cols+c))
			}
		}
	}
	if 5*len(p.drop) >= 2*len(p.W) {
		p.keep = make([]int32, 0, len(p.W)-len(p.drop))
		next := 0
		for i := range p.W {
			if next < len(p.drop) && int(p.drop[next]) == i {
				next++
			} else {
				p.keep = append(p.keep, int32(i))
			}
		}
	}
	p.apply(p.W)
	return nil
}

// kept lists the positions lo..hi-1 that the mask keeps; ok is false where that is not worth a list.
func (p *Param) kept(lo, hi int) (at []int32, ok bool) {
	if p.keep == nil {
		return nil, false
	}
	a, _ := slices.BinarySearch(p.keep, int32(lo))
	b, _ := slices.BinarySearch(p.keep, int32(hi))
	return p.keep[a:b], true
}

// apply clears the dropped positions of x.
func (p *Param) apply(x []float32) {
	for _, i := range p.drop {
		x[i] = 0
	}
}

// Net is a graph made ready for training. It is not safe for concurrent use.
type Net struct {
	Params []*Param // in the order of the graph's weights

	graph  *model.Graph // lowered, if the file's is a tensor graph
	file   *model.Graph
	origin map[*model.Weight]model.ValueID // constants of file that are parameters here
	pool   *linalg.Pool
	layers []layer
	byName map[*model.Weight]*Param
	s      state
	out    model.ValueID
	stats  []*batchNorm // running statistics to store
}

// layer is one node: it reads and writes values of the state.
type layer interface {
	forward(s *state)
	// backward adds to the gradients of the inputs from that of the output.
	backward(s *state)
}

// New reads the weights of g as float32 and compiles g for training. g itself changes
// only in Store. An op that cannot be trained is an error that names it.
func New(g *model.Graph, pool *linalg.Pool) (*Net, error) {
	n := &Net{graph: g, file: g, pool: pool, byName: map[*model.Weight]*Param{}}
	var frozen map[*model.Weight]bool
	if g.Tensors() {
		l, err := lower(g)
		if err != nil {
			return nil, err
		}
		g, n.graph, n.origin, frozen = l.g, l.g, l.constants, l.frozen
	}
	if len(g.Outputs) != 1 {
		return nil, fmt.Errorf("train: %q: want one output, got %d: %w", g.Name, len(g.Outputs), ErrGraph)
	}
	n.out = g.Outputs[0]
	n.s.init(g, pool)
	for _, node := range g.Nodes {
		l, err := n.compile(node)
		if err != nil {
			return nil, err
		}
		n.layers = append(n.layers, l)
	}
	for _, p := range n.Params {
		p.Frozen = frozen[p.weight]
	}
	return n, nil
}

// param reads a weight, once for all nodes that share it.
func (n *Net) param(node *model.Node, w *model.Weight, size int) (*Param, error) {
	if w == nil {
		return nil, fmt.Errorf("train: node %q (%s): no weight: %w", node.Name, node.Op, ErrGraph)
	}
	rows, cols := w.Data.Dims()
	if size >= 0 && rows*cols != size {
		return nil, fmt.Errorf("train: %q: want %d weights, got [%d %d]: %w", w.Name, size, rows, cols, ErrGraph)
	}
	if p := n.byName[w]; p != nil {
		return p, nil
	}
	data, err := sparse.Read(w.Data)
	if err != nil {
		return nil, fmt.Errorf("train: %q: %w", w.Name, err)
	}
	p := &Param{Name: w.Name, Rows: rows, Cols: cols, W: data, Grad: make([]float32, len(data)), NoDecay: w.Rank1(), weight: w}
	n.byName[w] = p
	n.Params = append(n.Params, p)
	return p, nil
}

// Param finds a parameter by name, or returns nil.
func (n *Net) Param(name string) *Param {
	for _, p := range n.Params {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// KeepZeros masks every matrix that pruning may touch (model.Graph.Linears and
// convolutions) by its zeros, if it has any, and returns how many weights are held.
func (n *Net) KeepZeros() (int, error) {
	held := 0
	for _, node := range n.graph.Nodes {
		if node.Op != model.OpLinear && node.Op != model.OpConv {
			continue
		}
		p := n.byName[node.Weight]
		if p == nil || p.mask != nil || p.Frozen {
			continue
		}
		m, err := sparse.MaskOf(sparse.NewDense(p.Rows, p.Cols, p.W))
		if err != nil {
			return held, fmt.Errorf("train: %q: %w", p.Name, err)
		}
		if m.Count() == len(p.W) {
			continue
		}
		if err := p.SetMask(m); err != nil {
			return held, err
		}
		held += len(p.drop)
	}
	return held, nil
}

// Store writes the weights back to the graph, dense float32, and the running statistics of
// batch norms. Weights of frozen parameters are left in the form they had.
func (n *Net) Store() error {
	for _, p := range n.Params {
		if p.Frozen {
			continue
		}
		if p.mask != nil {
			for _, i := range p.drop {
				if p.W[i] != 0 {
					return fmt.Errorf("train: %q: pruned weight %d is %g: %w", p.Name, i, p.W[i], sparse.ErrPattern)
				}
			}
		}
		n.put(p.weight, p.Rows, p.Cols, p.W)
	}
	for _, b := range n.stats {
		n.put(b.attr.Mean, 1, len(b.mean), b.mean)
		n.put(b.attr.Var, 1, len(b.variance), b.variance)
	}
	return nil
}

// put replaces a weight of the graph, or the constant that it was in a tensor graph.
func (n *Net) put(w *model.Weight, rows, cols int, x []float32) {
	x = append([]float32(nil), x...)
	w.Data = sparse.NewDense(rows, cols, x)
	if at, ok := n.origin[w]; ok {
		n.file.Constants[at] = model.F32Tensor(x, n.file.Constants[at].Shape...)
	}
}

// zeroGrad clears all gradients.
func (n *Net) zeroGrad() {
	for _, p := range n.Params {
		clear(p.Grad)
	}
}

// Forward computes the network's output for a batch: [rows, width], valid until the next
// call. training chooses the batch's own statistics in batch norms.
func (n *Net) Forward(b *Batch, training bool) ([]float32, error) {
	if err := n.s.start(b, n.graph, training); err != nil {
		return nil, err
	}
	for _, l := range n.layers {
		l.forward(&n.s)
	}
	return n.s.values[n.out], nil
}

// Width is the number of columns of the output.
func (n *Net) Width() int { return n.graph.Values[n.out].Width }

// Footprint is how many numbers all values of a sample are together: a pass holds as many for every row.
func (n *Net) Footprint() int {
	sum := 0
	for _, v := range n.graph.Values {
		sum += v.Width
	}
	return sum
}

// Gradients computes the loss of a batch and the gradients of all parameters, masked ones
// included, which it leaves in Param.Grad. Weights that Tie made one have one gradient, the sum.
func (n *Net) Gradients(b *Batch, loss Loss) (LossValue, error) { return n.gradients(b, loss, true) }

// InferenceGradients is Gradients of the network as it is in inference: batch norms use, and leave as
// they are, their running statistics, so that every sample has a gradient of its own.
func (n *Net) InferenceGradients(b *Batch, loss Loss) (LossValue, error) {
	return n.gradients(b, loss, false)
}

func (n *Net) gradients(b *Batch, loss Loss, training bool) (LossValue, error) {
	out, err := n.Forward(b, training)
	if err != nil {
		return LossValue{}, err
	}
	if err := loss.check(len(out), n.Width(), b); err != nil {
		return LossValue{}, err
	}
	n.zeroGrad()
	v := loss.value(n.pool, out, n.Width(), b, n.s.gradFor(n.out))
	for i := len(n.layers) - 1; i >= 0; i-- {
		n.layers[i].backward(&n.s)
	}
	for _, p := range n.Params {
		p.ties.gather(p.Grad)
	}
	return v, nil
}
