package train

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/loader"
)

// goldenBERT is testdata/golden_bert.json, which testdata/golden_bert.py wrote with PyTorch.
type goldenBERT struct {
	IDs     []int32
	Y       []int32
	Logits  []float64
	Losses  []float64 // before each step
	Held    int
	Tensors map[string]struct {
		Size int
		Norm float64
		At   []int
		W    []float32
		Grad []float64
	}
}

// TestGoldenBERT: the files that PyTorch's exporters make of a BERT train as it does: first gradients, and
// the losses of steps under the mask. Float32 here against float64 there through two layers: a few
// thousand roundings of 2^-24, relative to each tensor's gradient.
func TestGoldenBERT(t *testing.T) {
	raw, err := os.ReadFile("testdata/golden_bert.json")
	require.NoError(t, err)
	var want goldenBERT
	require.NoError(t, json.Unmarshal(raw, &want))
	for _, file := range []string{"bert.onnx", "bert14.onnx"} {
		t.Run(file, func(t *testing.T) {
			g, err := loader.Open(filepath.Join("testdata", file))
			require.NoError(t, err)
			defer g.Close()
			n, err := New(g, linalg.NewPool(2))
			require.NoError(t, err)
			b := &Batch{Rows: len(want.Y), Targets: want.Y}
			for _, id := range want.IDs {
				b.X = append(b.X, float32(id))
			}
			v, err := n.Gradients(b, CrossEntropy{})
			require.NoError(t, err)
			require.InDelta(t, want.Losses[0], v.Loss, 1e-5)
			for i, x := range n.s.values[n.out] {
				require.InDelta(t, want.Logits[i], float64(x), 2e-5, "logit %d", i)
			}
			seen := map[*Param]bool{}
			for name, tensor := range want.Tensors {
				var p *Param
				for _, q := range n.Params { // by content: exporters rename
					same := len(q.W) == tensor.Size || len(q.W) == tensor.Size/2
					for i, at := range tensor.At {
						same = same && at < len(q.W) && q.W[at] == tensor.W[i]
					}
					if same {
						p = q
					}
				}
				require.NotNil(t, p, name)
				require.False(t, p.Frozen, name)
				seen[p] = true
				require.InDelta(t, tensor.Norm, math.Sqrt(float64(linalg.Dot(p.Grad, p.Grad))), 2e-5*tensor.Norm+1e-7, name)
				for i, at := range tensor.At {
					require.InDelta(t, tensor.Grad[i], float64(p.Grad[at]), 2e-5*tensor.Norm+1e-7, "%s[%d]", name, at)
				}
			}
			require.Len(t, seen, len(want.Tensors))
			for _, p := range n.Params {
				require.True(t, seen[p] || p.Frozen, "%s is trained, which PyTorch does not have", p.Name)
			}
			held, err := n.KeepZeros()
			require.NoError(t, err)
			require.Equal(t, want.Held, held)
			st := (SGD{Momentum: 0.9}).start(n.Params)
			for i, loss := range want.Losses {
				v, err := n.Gradients(b, CrossEntropy{})
				require.NoError(t, err)
				require.InDelta(t, loss, v.Loss, 1e-4*loss, "step %d", i)
				stepAll(nil, st, n.Params, 0.05, i+1)
			}
			require.Less(t, want.Losses[5], want.Losses[0]/2)

			// What was trained is in the file that is saved, tables of positions included.
			v, err = n.Gradients(b, CrossEntropy{})
			require.NoError(t, err)
			require.NoError(t, n.Store())
			path := filepath.Join(t.TempDir(), "out.onnx")
			require.NoError(t, loader.Save(g, path, loader.SaveOptions{}))
			saved, err := loader.Open(path)
			require.NoError(t, err)
			defer saved.Close()
			again, err := New(saved, linalg.NewPool(1))
			require.NoError(t, err)
			zeros, err := again.KeepZeros()
			require.NoError(t, err)
			require.Equal(t, held, zeros)
			w, err := again.Gradients(b, CrossEntropy{})
			require.NoError(t, err)
			require.Equal(t, v.Loss, w.Loss)
		})
	}
}
