package train_test

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/train"
)

// TestTensors: a plain network, the tensor graph made of it, and the file that holds that one
// compute the same; training the tensor graph trains what is saved.
func TestTensors(t *testing.T) {
	mlp, err := train.MLP(4, 784, 30, 10)
	require.NoError(t, err)
	for _, g := range []*model.Graph{mlp, train.LeNet5(2), train.ResNet20(3)} {
		t.Run(g.Name, func(t *testing.T) {
			plain, err := train.New(g, linalg.NewPool(2))
			require.NoError(t, err)
			width := g.Values[g.Inputs[0]].Width
			rng := rand.New(rand.NewPCG(1, 1))
			b := &train.Batch{Rows: 3, X: make([]float32, 3*width), Targets: []int32{1, 2, 3}}
			for i := range b.X {
				b.X[i] = float32(rng.NormFloat64())
			}
			out, err := plain.Forward(b, false)
			require.NoError(t, err)
			want := append([]float32(nil), out...)

			tg, err := train.Tensors(g)
			require.NoError(t, err)
			same, err := train.Tensors(tg)
			require.NoError(t, err)
			require.Same(t, tg, same)
			n, err := train.New(tg, linalg.NewPool(2))
			require.NoError(t, err)
			require.Equal(t, len(plain.Params), len(n.Params))
			got, err := n.Forward(b, false)
			require.NoError(t, err)
			require.Equal(t, want, got)

			_, err = train.Fit(context.Background(), n, &train.Items{Width: width, X: b.X, Y: b.Targets}, train.Options{Steps: 2, Batch: 3}, nil)
			require.NoError(t, err)
			out, err = n.Forward(b, false)
			require.NoError(t, err)
			want = append([]float32(nil), out...)
			require.NoError(t, n.Store())
			path := filepath.Join(t.TempDir(), "net.onnx")
			require.NoError(t, loader.Save(tg, path, loader.SaveOptions{}))
			back, err := loader.Open(path)
			require.NoError(t, err)
			defer back.Close()
			n, err = train.New(back, linalg.NewPool(1))
			require.NoError(t, err)
			got, err = n.Forward(b, false)
			require.NoError(t, err)
			require.Equal(t, want, got)
			require.NotNil(t, n.Param(plain.Params[0].Name), "weights keep their names")
		})
	}
}
