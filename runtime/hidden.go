package runtime

import (
	"fmt"
	"math"
	"slices"

	"github.com/sparserun/sparserun/model"
)

// finalNorm is what stands between a language model's layers and its head. A session
// with Options.Hidden has the last layer's result of all rows as a second output of
// its plan and applies the norm itself: it is a row's worth of work, and the weights
// are not held twice.
type finalNorm struct {
	eps    float64
	weight []float32
}

// Hidden reports whether a Lockstep of the session can give hidden states.
func (s *Session) Hidden() bool { return s.norm != nil }

// withHidden is g with that output.
func withHidden(g *model.Graph) (*model.Graph, *finalNorm, error) {
	for i, n := range g.Nodes {
		if n.Op != model.OpSelect || i+1 == len(g.Nodes) {
			continue
		}
		next := g.Nodes[i+1]
		a, ok := next.Attr.(model.RMSNorm)
		if next.Op != model.OpRMSNorm || !ok || a.Width != 0 || len(next.In) != 1 || next.In[0] != n.Out {
			break
		}
		w, err := next.Weight.Vector()
		if err != nil {
			return nil, nil, err
		}
		h := *g
		h.Outputs = append(slices.Clone(g.Outputs), n.In[0])
		return &h, &finalNorm{float64(a.Eps), w}, nil
	}
	return nil, nil, fmt.Errorf("runtime: hidden states of %s, which is no language model of this family: %w", g.Name, ErrUnsupported)
}

// apply: dst = x / sqrt(mean(x^2) + eps) * weight.
func (f *finalNorm) apply(dst, x []float32) {
	var sum float64
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	r := float32(1 / math.Sqrt(sum/float64(len(x))+f.eps))
	for i, v := range x {
		dst[i] = v * r * f.weight[i]
	}
}
