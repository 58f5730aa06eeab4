package depgraph

import (
	"fmt"
	"math"
	"slices"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// A residual block is y = x + F(x) with x and y of one shape: without F it is y = x, exactly what
// it is with F's last weights at zero.

// block is an Add and the nodes of its branch.
type block struct {
	add    *model.Node
	skip   model.ValueID // x
	branch []*model.Node
	score  float64
}

// Blocks names the residual blocks that can be removed: those whose branch reads nothing but x, and
// is read by nothing but the Add.
func Blocks(g *model.Graph) []string {
	var out []string
	for _, b := range blocks(g) {
		out = append(out, b.add.Name)
	}
	return out
}

func blocks(g *model.Graph) []*block {
	maker, readers := map[model.ValueID]*model.Node{}, map[model.ValueID]int{}
	for _, n := range g.Nodes {
		for _, v := range n.Outs {
			maker[v] = n
		}
		for _, v := range n.In {
			readers[v]++
		}
	}
	for _, v := range g.Outputs {
		readers[v]++
	}
	var out []*block
	for _, n := range g.Nodes {
		if n.Op != "Add" || len(n.In) != 2 || slices.Contains(g.Outputs, n.Out) {
			continue
		}
		for i := range 2 {
			x, f := n.In[i], n.In[1-i]
			if g.Constants[x] != nil || g.Constants[f] != nil || x == f || g.Values[x].Shape == nil || !slices.Equal(g.Values[x].Shape, g.Values[n.Out].Shape) {
				continue
			}
			if b := branch(g, maker, readers, x, f); b != nil {
				out = append(out, &block{add: n, skip: x, branch: b})
				break
			}
		}
	}
	return out
}

// branch is the nodes from x to f, nil if they are more than a branch.
func branch(g *model.Graph, maker map[model.ValueID]*model.Node, readers map[model.ValueID]int, x, f model.ValueID) []*model.Node {
	in := map[*model.Node]bool{}
	todo := []model.ValueID{f}
	weights, reaches := false, false
	for len(todo) > 0 {
		v := todo[0]
		todo = todo[1:]
		if v == x {
			reaches = true
			continue
		}
		if v == model.NoValue || g.Constants[v] != nil {
			continue
		}
		n := maker[v]
		if n == nil {
			return nil // another input of the network
		}
		if in[n] {
			continue
		}
		in[n] = true
		weights = weights || n.Weight != nil
		todo = append(todo, n.In...)
	}
	if !weights || !reaches {
		return nil
	}
	// What the branch makes, only the branch and the Add may read.
	inside := map[model.ValueID]int{f: 1}
	var list []*model.Node
	for _, n := range g.Nodes {
		if !in[n] {
			continue
		}
		list = append(list, n)
		for _, v := range n.In {
			inside[v]++
		}
	}
	for _, n := range list {
		for _, v := range n.Outs {
			if v != model.NoValue && readers[v] != inside[v] {
				return nil
			}
		}
	}
	return list
}

// DropBlocks removes the k residual blocks of the lowest score and names them: with gradients
// |sum of w*g| over the branch, without them the size of what the branch adds, the norm of its
// last weight times its batch norm's gain. g is not changed.
func DropBlocks(g *model.Graph, k int, gradients map[string][]float32) (*model.Graph, []string, error) {
	if !g.Tensors() {
		return nil, nil, fmt.Errorf("depgraph: %q: want a tensor graph: %w", g.Name, ErrGraph)
	}
	all := blocks(g)
	if k < 0 || k > len(all) {
		return nil, nil, fmt.Errorf("depgraph: %q: %d residual blocks can go, asked for %d: %w", g.Name, len(all), k, ErrOption)
	}
	for _, b := range all {
		if err := b.rate(g, gradients); err != nil {
			return nil, nil, err
		}
	}
	slices.SortStableFunc(all, func(a, b *block) int {
		switch {
		case a.score < b.score:
			return -1
		case a.score > b.score:
			return 1
		}
		return 0
	})
	gone := map[*model.Node]bool{}
	stands := map[model.ValueID]model.ValueID{} // what is read instead of a block's result
	var names []string
	for _, b := range all[:k] {
		gone[b.add] = true
		for _, n := range b.branch {
			gone[n] = true
		}
		stands[b.add.Out] = b.skip
		names = append(names, b.add.Name)
	}
	out := clone(g)
	out.Values = slices.Clone(g.Values)
	used, read := map[*model.Weight]bool{}, map[model.ValueID]bool{}
	for _, n := range g.Nodes {
		if gone[n] {
			continue
		}
		c := *n
		c.In = slices.Clone(n.In)
		for i, v := range c.In {
			for { // a block may read another that is gone
				x, ok := stands[v]
				if !ok {
					break
				}
				v = x
			}
			c.In[i] = v
			read[v] = true
		}
		used[n.Weight], used[n.Bias] = true, true
		out.Nodes = append(out.Nodes, &c)
	}
	for _, w := range g.Weights {
		if used[w] {
			out.Weights = append(out.Weights, w)
		}
	}
	for v, t := range g.Constants {
		if read[v] || slices.Contains(g.Outputs, v) {
			out.Constants[v] = t
		}
	}
	if err := out.Check(); err != nil {
		return nil, nil, fmt.Errorf("depgraph: %w", err)
	}
	return out, names, nil
}

func (b *block) rate(g *model.Graph, gradients map[string][]float32) error {
	last := map[*model.Weight]bool{}
	for i, n := range slices.Backward(b.branch) {
		if n.Weight == nil {
			continue
		}
		w, err := sparse.Read(n.Weight.Data)
		if err != nil {
			return fmt.Errorf("depgraph: %q: %w", n.Weight.Name, err)
		}
		if gradients != nil {
			d := gradients[n.Weight.Name]
			if len(d) != len(w) {
				return fmt.Errorf("depgraph: gradient of %q: want %d numbers, got %d: %w", n.Weight.Name, len(w), len(d), ErrOption)
			}
			var sum float64
			for j, v := range w {
				sum += float64(v) * float64(d[j])
			}
			b.score += math.Abs(sum)
			continue
		}
		if len(last) > 0 {
			continue
		}
		last[n.Weight] = true
		rows := n.Weight.Shape[0]
		scale := make([]float64, rows)
		for r := range scale {
			scale[r] = 1
		}
		for _, m := range b.branch[i+1:] { // its batch norm, if one follows
			if m.Op == "BatchNormalization" && m.In[0] == n.Out {
				gain, ok1 := floats(g, m, 1, rows)
				variance, ok2 := floats(g, m, 4, rows)
				if ok1 && ok2 {
					eps := 1e-5
					if a, ok := m.Attr.(*model.TensorOp).Attrs["epsilon"]; ok {
						eps = float64(a.F)
					}
					for r := range scale {
						scale[r] = float64(gain[r]) / math.Sqrt(float64(variance[r])+eps)
					}
				}
			}
		}
		var sum float64
		cols := len(w) / rows
		for r := range rows {
			for _, v := range w[r*cols : (r+1)*cols] {
				x := float64(v) * scale[r]
				sum += x * x
			}
		}
		b.score = math.Sqrt(sum)
	}
	return nil
}

func floats(g *model.Graph, n *model.Node, i, size int) ([]float32, bool) {
	if i >= len(n.In) || g.Constants[n.In[i]] == nil {
		return nil, false
	}
	x, ok := g.Constants[n.In[i]].Data.([]float32)
	return x, ok && len(x) == size
}
