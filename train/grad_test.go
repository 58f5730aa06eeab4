package train

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// project is a loss that is linear in the output, sum(out * r), so that the numeric
// derivative sees nothing but the network.
type project struct{ r []float32 }

func (l project) value(_ *linalg.Pool, out []float32, _ int, _ *Batch, grad []float32) LossValue {
	var v LossValue
	for i, x := range out {
		v.Loss += float64(x) * float64(l.r[i])
	}
	if grad != nil {
		copy(grad, l.r)
	}
	return v
}

func (project) check(int, int, *Batch) error { return nil }

func randomVector(rng *rand.Rand, n int, std float64) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64() * std)
	}
	return x
}

// checkGradients compares the gradient of every parameter with central differences at steps h
// and h/2, extrapolated (Richardson) so that the error is of order h^4. With h = 1/64 and losses
// of order 10 to 100, float32 leaves 100 * 2^-24 / h = 4e-4 of noise, more where a network is
// deep; tolerance 4e-3 relative to the larger of 1, the gradient and the loss/10.
func checkGradients(t *testing.T, g *model.Graph, b *Batch) { checkGradientsIn(t, g, b, true) }

// checkGradientsIn chooses between training and inference, where batch norms use what they have gathered.
func checkGradientsIn(t *testing.T, g *model.Graph, b *Batch, training bool) {
	t.Helper()
	rng := rand.New(rand.NewPCG(42, 1))
	n, err := New(g, linalg.NewPool(2))
	require.NoError(t, err)
	for _, p := range n.Params {
		for i, v := range p.W {
			if v == 0 || v == 1 { // biases and gains as they start: move them off
				p.W[i] += float32(rng.NormFloat64() * 0.3)
			}
		}
	}
	loss := project{randomVector(rng, b.Rows*n.Width(), 1)}
	gradients := n.Gradients
	if !training {
		_, err := n.Forward(b, true) // running statistics that are not 0 and 1
		require.NoError(t, err)
		gradients = n.InferenceGradients
	}
	stats := n.Snapshot().stats
	base, err := gradients(b, loss)
	require.NoError(t, err)
	// A second pass over used buffers gives the same bits. (Batch norm keeps its own statistics.)
	var first [][]float32
	for _, p := range n.Params {
		first = append(first, append([]float32(nil), p.Grad...))
	}
	_, err = gradients(b, loss)
	require.NoError(t, err)
	if !training {
		require.Equal(t, stats, n.Snapshot().stats)
	}
	for i, p := range n.Params {
		require.Equal(t, first[i], p.Grad, p.Name)
	}
	const h = 1.0 / 64
	checked := 0
	for _, p := range n.Params {
		grad := append([]float32(nil), p.Grad...)
		for try := range min(len(p.W), 24) {
			i := try
			if len(p.W) > 24 {
				i = rng.IntN(len(p.W))
			}
			at := func(x float32) float64 {
				old := p.W[i]
				p.W[i] += x
				out, err := n.Forward(b, training)
				require.NoError(t, err)
				v := loss.value(nil, out, 0, b, nil).Loss
				p.W[i] = old
				return v
			}
			wide, narrow := (at(h)-at(-h))/(2*h), (at(h/2)-at(-h/2))/h
			want, got := (4*narrow-wide)/3, float64(grad[i])
			scale := math.Max(1, math.Max(math.Abs(got), math.Abs(base.Loss)/10))
			if !(math.Abs(want-got) <= 4e-3*scale) {
				t.Fatalf("%s[%d]: differences %g, gradient %g", p.Name, i, want, got)
			}
			checked++
		}
	}
	require.NotZero(t, checked)
}

// opCase is a network around one op: a Linear feeds it, so that its input gradient shows in
// that Linear's weights.
type opCase struct {
	name string
	in   model.Image
	mid  model.Image // what the Linear makes
	add  func(b *builder)
}

func opCases() []opCase {
	flat := func(n int) model.Image { return model.Image{C: n, H: 1, W: 1} }
	unary := func(op model.Op, attr any) func(b *builder) {
		return func(b *builder) { b.node(op, "op", b.img, attr, nil, nil) }
	}
	convolution := func(c model.Conv, in model.Image, bias bool) func(b *builder) {
		return func(b *builder) {
			c.In = in
			d, e := max(c.DilationH, 1), max(c.DilationW, 1)
			c.Out.H = (in.H+2*c.PadTop-d*(c.KernelH-1)-1)/c.StrideH + 1
			c.Out.W = (in.W+2*c.PadLeft-e*(c.KernelW-1)-1)/c.StrideW + 1
			w := b.normal("op.weight", 0.5, c.Out.C, in.C/max(c.Groups, 1), c.KernelH, c.KernelW)
			var bw *model.Weight
			if bias {
				bw = vector("op.bias", c.Out.C, 0)
			}
			b.node(model.OpConv, "op", c.Out, c, w, bw)
		}
	}
	pool := func(op model.Op, p model.Pool) func(b *builder) {
		return func(b *builder) {
			p.In = b.img
			b.node(op, "op", p.Out, p, nil, nil)
		}
	}
	two := func(op model.Op) func(b *builder) {
		return func(b *builder) {
			first := b.at
			b.linear("second", b.img.Size())
			b.node(op, "op", b.img, nil, nil, nil, first)
		}
	}
	img := model.Image{C: 4, H: 6, W: 5}
	return []opCase{
		{"linear", flat(3), flat(7), func(b *builder) { b.linear("op", 5) }},
		{"silu", flat(3), flat(7), unary(model.OpSiLU, nil)},
		{"gelu", flat(3), flat(7), unary(model.OpGELU, nil)},
		{"gelutanh", flat(3), flat(7), unary(model.OpGELU, model.GELU{Tanh: true})},
		{"softmax", flat(3), flat(7), unary(model.OpSoftmax, nil)},
		{"select", flat(3), flat(7), unary(model.OpSelect, nil)},
		{"add", flat(3), flat(7), two(model.OpAdd)},
		{"mul", flat(3), flat(7), two(model.OpMul)},
		{"silugate", flat(3), flat(300), two(model.OpSiLUGate)},
		{"rmsnorm", flat(3), flat(12), func(b *builder) {
			b.node(model.OpRMSNorm, "op", b.img, model.RMSNorm{Eps: 1e-5}, vector("op.weight", 12, 1), nil)
		}},
		{"rmsnorm/groups", flat(3), flat(12), func(b *builder) {
			b.node(model.OpRMSNorm, "op", b.img, model.RMSNorm{Eps: 1e-5, Width: 4}, vector("op.weight", 4, 1), nil)
		}},
		{"layernorm", flat(3), flat(12), func(b *builder) {
			b.node(model.OpLayerNorm, "op", b.img, model.LayerNorm{Eps: 1e-5}, vector("op.weight", 12, 1), vector("op.bias", 12, 0))
		}},
		{"layernorm/nobias", flat(3), flat(12), func(b *builder) {
			b.node(model.OpLayerNorm, "op", b.img, model.LayerNorm{Eps: 1e-5}, vector("op.weight", 12, 1), nil)
		}},
		{"batchnorm", flat(3), model.Image{C: 3, H: 2, W: 2}, func(b *builder) { b.batchNorm("op") }},
		{"conv", flat(3), img, convolution(model.Conv{Out: model.Image{C: 3}, KernelH: 3, KernelW: 2, StrideH: 1, StrideW: 1}, img, true)},
		{"conv/stride+pad", flat(3), img, convolution(model.Conv{Out: model.Image{C: 3}, KernelH: 3, KernelW: 3, StrideH: 2, StrideW: 3, PadTop: 1, PadLeft: 2}, img, false)},
		{"conv/dilated", flat(3), img, convolution(model.Conv{Out: model.Image{C: 2}, KernelH: 2, KernelW: 3, StrideH: 1, StrideW: 1, PadTop: 1, PadLeft: 1, DilationH: 3, DilationW: 2}, img, true)},
		{"conv/groups", flat(3), img, convolution(model.Conv{Out: model.Image{C: 6}, KernelH: 2, KernelW: 2, StrideH: 1, StrideW: 1, Groups: 2}, img, true)},
		{"conv/depthwise", flat(3), img, convolution(model.Conv{Out: model.Image{C: 4}, KernelH: 3, KernelW: 3, StrideH: 1, StrideW: 1, PadTop: 1, PadLeft: 1, Groups: 4}, img, true)},
		{"conv/1x1", flat(3), img, convolution(model.Conv{Out: model.Image{C: 5}, KernelH: 1, KernelW: 1, StrideH: 1, StrideW: 1}, img, true)},
		{"averagepool", flat(3), img, pool(model.OpAveragePool, model.Pool{Out: model.Image{C: 4, H: 3, W: 3}, KernelH: 3, KernelW: 2, StrideH: 2, StrideW: 2, PadTop: 1})},
		{"averagepool/countpad", flat(3), img, pool(model.OpAveragePool, model.Pool{Out: model.Image{C: 4, H: 4, W: 3}, KernelH: 2, KernelW: 2, StrideH: 2, StrideW: 2, PadTop: 1, CountPad: true})},
		{"globalaveragepool", flat(3), img, pool(model.OpGlobalAveragePool, model.Pool{Out: model.Image{C: 4, H: 1, W: 1}})},
	}
}

func (c opCase) graph() *model.Graph {
	b := newBuilder(c.name, 7, c.in)
	b.linear("feed", c.mid.Size())
	b.img = c.mid
	c.add(b)
	return b.finish()
}

func TestGradients(t *testing.T) {
	for _, c := range opCases() {
		t.Run(c.name, func(t *testing.T) {
			for _, rows := range []int{1, 2, 9, 19} {
				if c.name == "batchnorm" {
					g := c.graph()
					rng := rand.New(rand.NewPCG(uint64(rows), 2))
					checkGradientsIn(t, g, &Batch{Rows: rows, X: randomVector(rng, rows*c.in.Size(), 1)}, false)
				}
				if rows == 1 && c.name == "batchnorm" {
					continue // four values of a channel: third derivatives are beyond the tolerance
				}
				g := c.graph()
				rng := rand.New(rand.NewPCG(uint64(rows), 2))
				checkGradients(t, g, &Batch{Rows: rows, X: randomVector(rng, rows*c.in.Size(), 1)})
			}
		})
	}
}

// TestGradientsKinked: ReLU and max pooling have kinks, where differences are meaningless.
// Steps far smaller than the distance to the nearest kink avoid them: their pieces are linear, and a
// network of only such pieces is exactly linear in one weight, so a large loss of digits is
// all there is to allow: 10 * 2^-24 * 2^12 = 2e-3.
func TestGradientsKinked(t *testing.T) {
	img := model.Image{C: 2, H: 5, W: 5}
	for name, tail := range map[string]func(b *builder){
		"relu": func(b *builder) { b.relu("op") },
		"maxpool": func(b *builder) {
			o := model.Image{C: 2, H: 3, W: 3}
			b.node(model.OpMaxPool, "op", o, model.Pool{In: b.img, Out: o, KernelH: 3, KernelW: 2, StrideH: 2, StrideW: 2, PadTop: 1}, nil, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBuilder(name, 3, model.Image{C: 4, H: 1, W: 1})
			b.linear("feed", img.Size())
			b.img = img
			tail(b)
			n, err := New(b.finish(), linalg.NewPool(2))
			require.NoError(t, err)
			rng := rand.New(rand.NewPCG(1, 2))
			batch := &Batch{Rows: 11, X: randomVector(rng, 44, 1)}
			loss := project{randomVector(rng, batch.Rows*n.Width(), 1)}
			_, err = n.Gradients(batch, loss)
			require.NoError(t, err)
			const h = 1.0 / 4096
			off := 0
			for _, p := range n.Params {
				for i := range p.W {
					at := func(x float32) float64 {
						old := p.W[i]
						p.W[i] += x
						out, err := n.Forward(batch, true)
						require.NoError(t, err)
						p.W[i] = old
						return loss.value(nil, out, 0, batch, nil).Loss
					}
					if want := (at(h) - at(-h)) / (2 * h); math.Abs(want-float64(p.Grad[i])) > 2e-3*math.Max(1, math.Abs(want)) {
						off++
					}
				}
			}
			// A kink within h of a value: at most a few of the 250 weights.
			require.LessOrEqual(t, off, 5)
		})
	}
}

// tinyLlama is a language model of random weights with everything that a Llama can have.
func tinyLlama(t *testing.T, tied, qkNorm, bias bool, window int) *model.Graph {
	cfg := model.Config{Arch: "llama", Vocab: 11, Hidden: 12, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 6, FFN: 20, Context: 128,
		RMSEps: 1e-5, RopeTheta: 100, Tied: tied, QKNorm: qkNorm, Window: window}
	rng := rand.New(rand.NewPCG(9, 9))
	width := func(name string, _ int) (rows, cols int) {
		var l int
		var kind string
		fmt.Sscanf(name, "model.layers.%d.%s", &l, &kind)
		switch kind {
		case "self_attn.q_proj.weight":
			return 24, 12
		case "self_attn.k_proj.weight", "self_attn.v_proj.weight":
			return 12, 12
		case "self_attn.o_proj.weight":
			return 12, 24
		case "mlp.gate_proj.weight", "mlp.up_proj.weight":
			return 20, 12
		case "mlp.down_proj.weight":
			return 12, 20
		case "self_attn.q_norm.weight", "self_attn.k_norm.weight":
			return 0, 6
		case "self_attn.q_proj.bias":
			return 0, 24
		case "self_attn.k_proj.bias", "self_attn.v_proj.bias":
			return 0, 12
		case "self_attn.o_proj.bias", "mlp.gate_proj.bias", "mlp.up_proj.bias", "mlp.down_proj.bias":
			return -1, 0
		}
		switch name {
		case "model.embed_tokens.weight", "lm_head.weight":
			return 11, 12
		}
		return 0, 12 // norms
	}
	g, err := model.NewLlama(cfg, func(name string) (*model.Weight, error) {
		r, c := width(name, 0)
		switch {
		case r < 0 || !bias && r == 0 && len(name) > 5 && name[len(name)-5:] == ".bias":
			return nil, nil
		case r == 0:
			w := randomVector(rng, c, 0.2)
			if name[len(name)-7:] == ".weight" {
				for i := range w {
					w[i]++
				}
			}
			return &model.Weight{Name: name, Shape: []int{c}, Data: sparse.NewDense(1, c, w)}, nil
		}
		return &model.Weight{Name: name, Shape: []int{r, c}, Data: sparse.NewDense(r, c, randomVector(rng, r*c, 0.3))}, nil
	})
	require.NoError(t, err)
	return g
}

func TestGradientsLlama(t *testing.T) {
	for name, g := range map[string]*model.Graph{
		"tied": tinyLlama(t, true, false, false, 0), "untied+qknorm+bias": tinyLlama(t, false, true, true, 0), "window": tinyLlama(t, true, false, true, 4),
	} {
		t.Run(name, func(t *testing.T) {
			for _, seqs := range [][]int{{1}, {7, 1, 5}, {70}} {
				rng := rand.New(rand.NewPCG(uint64(len(seqs)), 3))
				b := &Batch{Seqs: seqs}
				for _, n := range seqs {
					for range n {
						b.Tokens = append(b.Tokens, int32(rng.IntN(11)))
					}
				}
				b.Rows = len(b.Tokens)
				checkGradients(t, g, b)
			}
		})
	}
}

// TestGradientsLoss checks the losses themselves, in the logits: a Linear alone.
func TestGradientsLoss(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	const rows, classes = 9, 7
	logits, teacher := randomVector(rng, rows*classes, 2), randomVector(rng, rows*classes, 2)
	b := &Batch{Rows: rows, Targets: []int32{0, 1, 6, -1, 3, 3, 2, -1, 5}, Teacher: teacher}
	for name, l := range map[string]Loss{"ce": CrossEntropy{}, "smooth": CrossEntropy{Smoothing: 0.1}, "distill": Distill{Temperature: 2, Weight: 0.7}, "distill1": Distill{Weight: 1}} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, l.check(len(logits), classes, b))
			grad := make([]float32, rows*classes)
			l.value(nil, logits, classes, b, grad)
			for i := range logits {
				old := logits[i]
				const h = 1.0 / 128
				logits[i] = old + h
				up := l.value(nil, logits, classes, b, nil)
				logits[i] = old - h
				down := l.value(nil, logits, classes, b, nil)
				logits[i] = old
				// h^2/6 times third derivatives below 1/rows*T^2, and 2^-24/h of rounding.
				require.InDelta(t, (up.Loss-down.Loss)/(2*h), float64(grad[i]), 5e-5, "logit %d", i)
			}
		})
	}
}
