package train

import (
	"encoding/json"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/testenv"
)

// golden is testdata/golden.json, which testdata/golden.py wrote with PyTorch.
type golden struct {
	Conv, Block goldenCase
	Optimisers  struct {
		W     []float32
		Grads [][]float32
		After map[string][][]float64
	}
	Stories struct {
		Seqs    [][]int32
		Loss    float64
		Tensors map[string]struct {
			Norm float64
			At   []int
			Grad []float64
		}
	}
}

type goldenCase struct {
	X      []float32
	Y      []int32
	Loss   float64
	Logits []float64
	// In the order of the graph.
	Weights [][]float32
	Grads   [][]float64
	Stats   [][]float64
}

func readGolden(t *testing.T) *golden {
	data, err := os.ReadFile("testdata/golden.json")
	require.NoError(t, err)
	var g golden
	require.NoError(t, json.Unmarshal(data, &g))
	return &g
}

// run puts the golden weights into a graph and compares loss, logits and gradients. Ours are
// float32 throughout: a few hundred roundings of 2^-24 of the largest term, 3e-6.
func (c *goldenCase) run(t *testing.T, g *model.Graph, loss Loss) *Net {
	n, err := New(g, linalg.NewPool(2))
	require.NoError(t, err)
	require.Len(t, n.Params, len(c.Weights))
	for i, p := range n.Params {
		require.Len(t, p.W, len(c.Weights[i]), p.Name)
		copy(p.W, c.Weights[i])
	}
	b := &Batch{Rows: len(c.Y), X: c.X, Targets: c.Y}
	v, err := n.Gradients(b, loss)
	require.NoError(t, err)
	require.InDelta(t, c.Loss, v.Loss, 1e-6)
	for i, x := range n.s.values[n.out] {
		require.InDelta(t, c.Logits[i], float64(x), 3e-6, "logit %d", i)
	}
	for i, p := range n.Params {
		top := 0.1
		for _, x := range c.Grads[i] {
			top = math.Max(top, math.Abs(x))
		}
		for j, x := range c.Grads[i] {
			require.InDelta(t, x, float64(p.Grad[j]), 3e-6*top, "%s[%d]", p.Name, j)
		}
	}
	return n
}

func TestGoldenConv(t *testing.T) {
	c := readGolden(t).Conv
	b := newBuilder("conv", 1, model.Image{C: 2, H: 6, W: 6})
	b.conv("conv", 3, 3, 1, 1, true)
	b.batchNorm("bn")
	b.relu("relu")
	b.maxPool("pool", 2)
	o := model.Image{C: 3, H: 2, W: 2}
	a := model.Conv{In: b.img, Out: o, KernelH: 3, KernelW: 3, StrideH: 2, StrideW: 2, PadTop: 1, PadLeft: 1, Groups: 3}
	b.node(model.OpConv, "dw", o, a, b.normal("dw.weight", 1, 3, 1, 3, 3), vector("dw.bias", 3, 0))
	b.node(model.OpGELU, "gelu", o, nil, nil, nil)
	b.node(model.OpGlobalAveragePool, "gap", model.Image{C: 3, H: 1, W: 1}, model.Pool{In: o}, nil, nil)
	b.linear("fc", 4)
	n := c.run(t, b.finish(), CrossEntropy{})
	require.Len(t, n.stats, 1)
	for i, v := range n.stats[0].mean {
		require.InDelta(t, c.Stats[0][i], float64(v), 1e-6)
		require.InDelta(t, c.Stats[1][i], float64(n.stats[0].variance[i]), 1e-6)
	}
}

func TestGoldenBlock(t *testing.T) {
	c := readGolden(t).Block
	b := newBuilder("block", 1, model.Image{C: 5, H: 1, W: 1})
	b.linear("l1", 8)
	b.node(model.OpLayerNorm, "ln", b.img, model.LayerNorm{Eps: 1e-5}, vector("ln.weight", 8, 1), vector("ln.bias", 8, 0))
	b.node(model.OpGELU, "gelu", b.img, model.GELU{Tanh: true}, nil, nil)
	b.linear("l2", 8)
	b.node(model.OpRMSNorm, "rn", b.img, model.RMSNorm{Eps: 1e-5}, vector("rn.weight", 8, 1), nil)
	b.node(model.OpSiLU, "silu", b.img, nil, nil, nil)
	b.linear("l3", 3)
	c.run(t, b.finish(), CrossEntropy{Smoothing: 0.1})
}

func TestGoldenOptimisers(t *testing.T) {
	c := readGolden(t).Optimisers
	for name, o := range map[string]Optimiser{
		"sgd": SGD{}, "sgd_momentum": SGD{Momentum: 0.9, Decay: 0.05}, "sgd_nesterov": SGD{Momentum: 0.9, Nesterov: true, Decay: 0.05},
		"adam": Adam{Decay: 0.05}, "adamw": AdamW(0.05),
	} {
		require.Len(t, c.After[name], len(c.Grads))
		p := &Param{Name: name, W: append([]float32(nil), c.W...), Grad: make([]float32, len(c.W))}
		st := o.start([]*Param{p})
		for i, g := range c.Grads {
			copy(p.Grad, g)
			stepAll(nil, st, []*Param{p}, 0.1, i+1)
			for j, w := range c.After[name][i] {
				require.InDelta(t, w, float64(p.W[j]), 1e-6, "%s step %d", name, i)
			}
		}
	}
}

// TestGoldenStories: a real model's gradients, float32 here against float64 there, relative
// to the norm of each tensor's gradient.
func TestGoldenStories(t *testing.T) {
	c := readGolden(t).Stories
	g, err := loader.Open(testenv.Data(t, "stories260K"))
	require.NoError(t, err)
	defer g.Close()
	n, err := New(g, linalg.NewPool(2))
	require.NoError(t, err)
	text, err := NewText(c.Seqs, 512)
	require.NoError(t, err)
	var b Batch
	text.Fill(&b, []int{0, 1, 2})
	v, err := n.Gradients(&b, CrossEntropy{})
	require.NoError(t, err)
	require.InDelta(t, c.Loss, v.Loss, 1e-5*c.Loss)
	require.Len(t, n.Params, len(c.Tensors))
	for name, want := range c.Tensors {
		p := n.Param(name)
		require.NotNil(t, p, name)
		require.InDelta(t, want.Norm, math.Sqrt(float64(linalg.Dot(p.Grad, p.Grad))), 1e-4*want.Norm, name)
		for i, at := range want.At {
			require.InDelta(t, want.Grad[i], float64(p.Grad[at]), 2e-5*want.Norm, "%s[%d]", name, at)
		}
	}
}
