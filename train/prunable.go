package train

import "github.com/sparserun/sparserun/model"

// Prunable lists the parameters that pruning may touch by default, each once, in the order of the
// nodes: matrices of Linear nodes but a language model's head, and of convolutions. One that an
// embedding shares, or that training leaves as it is, is not among them.
func (n *Net) Prunable() []*Param {
	no := map[*Param]bool{}
	for _, node := range n.graph.Nodes {
		if node.Op == model.OpEmbedding || node.Name == model.HeadName {
			no[n.byName[node.Weight]] = true
		}
	}
	var out []*Param
	for _, node := range n.graph.Nodes {
		if node.Op != model.OpLinear && node.Op != model.OpConv {
			continue
		}
		if p := n.byName[node.Weight]; p != nil && !p.Frozen && !no[p] {
			no[p] = true
			out = append(out, p)
		}
	}
	return out
}

// Weight is the weight of the graph that p was read from; of a tensor graph's constants (added
// biases, batch norms) it is one that the file's graph does not list.
func (p *Param) Weight() *model.Weight { return p.weight }
