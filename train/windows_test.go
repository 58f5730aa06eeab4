package train

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

// TestWindowsForward compares convolutions and average pools with their definitions in float64: the
// gradients above only show that backward fits forward. k products of order 1 round to k * 2^-24.
func TestWindowsForward(t *testing.T) {
	for _, c := range opCases() {
		g := c.graph()
		last := g.Nodes[len(g.Nodes)-1]
		n, err := New(g, linalg.NewPool(2))
		require.NoError(t, err)
		rng := rand.New(rand.NewPCG(8, 8))
		const rows = 3
		out, err := n.Forward(&Batch{Rows: rows, X: randomVector(rng, rows*c.in.Size(), 1)}, true)
		require.NoError(t, err)
		x := n.s.values[last.In[0]]
		switch a := last.Attr.(type) {
		case model.Conv:
			a.DilationH, a.DilationW, a.Groups = max(a.DilationH, 1), max(a.DilationW, 1), max(a.Groups, 1)
			inC, outC := a.In.C/a.Groups, a.Out.C/a.Groups
			eachPixel(rows, a.Out, func(r, oc, oh, ow, at int) {
				var want float64
				if last.Bias != nil {
					want = float64(n.Param("op.bias").W[oc])
				}
				for ic := range inC {
					for kh := range a.KernelH {
						for kw := range a.KernelW {
							h, w := oh*a.StrideH+kh*a.DilationH-a.PadTop, ow*a.StrideW+kw*a.DilationW-a.PadLeft
							if h >= 0 && h < a.In.H && w >= 0 && w < a.In.W {
								want += float64(x[r*a.In.Size()+((oc/outC*inC+ic)*a.In.H+h)*a.In.W+w]) *
									float64(n.Param("op.weight").W[((oc*inC+ic)*a.KernelH+kh)*a.KernelW+kw])
							}
						}
					}
				}
				require.InDelta(t, want, float64(out[at]), 1e-5, "%s [%d %d %d %d]", c.name, r, oc, oh, ow)
			})
		case model.Pool:
			if last.Op == model.OpGlobalAveragePool {
				a.KernelH, a.KernelW = a.In.H, a.In.W
			}
			eachPixel(rows, a.Out, func(r, ch, oh, ow, at int) {
				var sum, count float64
				for kh := range a.KernelH {
					for kw := range a.KernelW {
						h, w := oh*a.StrideH+kh-a.PadTop, ow*a.StrideW+kw-a.PadLeft
						inside := h >= 0 && h < a.In.H && w >= 0 && w < a.In.W
						if inside {
							sum += float64(x[r*a.In.Size()+(ch*a.In.H+h)*a.In.W+w])
						}
						if inside || a.CountPad {
							count++
						}
					}
				}
				require.InDelta(t, sum/count, float64(out[at]), 1e-5, "%s [%d %d %d %d]", c.name, r, ch, oh, ow)
			})
		}
	}
}

func eachPixel(rows int, o model.Image, f func(r, c, h, w, at int)) {
	at := 0
	for r := range rows {
		for c := range o.C {
			for h := range o.H {
				for w := range o.W {
					f(r, c, h, w, at)
					at++
				}
			}
		}
	}
}

// TestPoolInPadding: windows that lie in the padding alone give 0 and take no gradient.
func TestPoolInPadding(t *testing.T) {
	for _, op := range []model.Op{model.OpMaxPool, model.OpAveragePool} {
		b := newBuilder("pad", 1, model.Image{C: 1, H: 1, W: 2})
		b.linear("feed", 2)
		o := model.Image{C: 1, H: 3, W: 4}
		b.node(op, "pool", o, model.Pool{In: model.Image{C: 1, H: 1, W: 2}, Out: o, KernelH: 1, KernelW: 1, StrideH: 1, StrideW: 1, PadTop: 1, PadLeft: 1}, nil, nil)
		n, err := New(b.finish(), nil)
		require.NoError(t, err)
		batch := &Batch{Rows: 1, X: []float32{3, -2}}
		out, err := n.Forward(batch, true)
		require.NoError(t, err)
		f := n.s.values[n.graph.Nodes[0].Out]
		require.Equal(t, []float32{0, 0, 0, 0, 0, f[0], f[1], 0, 0, 0, 0, 0}, out)
		_, err = n.Gradients(batch, project{randomVector(rand.New(rand.NewPCG(1, 1)), 12, 1)})
		require.NoError(t, err)
	}
}
