package train_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
	"github.com/sparserun/sparserun/train"
)

// scaled opens MNIST with pixels/256, which the LeNets of shared/data want.
func scaled(t *testing.T) *train.MNIST {
	m, err := train.OpenMNIST(filepath.Dir(testenv.Data(t, "mnist/t10k-images-idx3-ubyte.gz")))
	require.NoError(t, err)
	m.Train.Normalise(0, 256.0/255)
	m.Test.Normalise(0, 256.0/255)
	return m
}

func openNet(t *testing.T, name string) *train.Net {
	g, err := loader.Open(testenv.Data(t, name))
	require.NoError(t, err)
	t.Cleanup(func() { g.Close() })
	n, err := train.New(g, linalg.NewPool(2))
	require.NoError(t, err)
	return n
}

// TestONNXAccuracy: the forward pass over files gives the accuracies that onnxruntime gave
// (shared/data/README.md), to the image.
func TestONNXAccuracy(t *testing.T) {
	if testing.Short() {
		t.Skip("forward passes of five networks over whole test sets")
	}
	mnist := scaled(t).Test
	cifar, err := train.OpenCIFAR10(testenv.Data(t, "resnet/cifar10_test_jpeg_0000-1999.bin.gz"))
	require.NoError(t, err)
	for _, c := range []struct {
		file    string
		data    *train.Items
		correct int
	}{
		{"lenet/lenet300100_original.onnx", mnist, 9772}, {"lenet/lenet300100_sparse.onnx", mnist, 9801},
		{"lenet/lenet300100_sparse_sparseinit_coo.onnx", mnist, 9801},
		{"lenet/lenet5_original.onnx", mnist, 9909}, {"lenet/lenet5_sparse.onnx", mnist, 9909},
		{"resnet/resnet20.onnx", cifar, 1626},
	} {
		v, err := train.Evaluate(openNet(t, c.file), c.data, 100)
		require.NoError(t, err)
		require.Equal(t, c.correct, v.Correct, c.file)
	}
}

// TestONNXFineTune: a file's zeros hold through fine-tuning and end up in the graph; ResNet-20's
// batch norms are constants of the file and are replaced there.
func TestONNXFineTune(t *testing.T) {
	m := scaled(t)
	g, err := loader.Open(testenv.Data(t, "lenet/lenet300100_sparse.onnx"))
	require.NoError(t, err)
	defer g.Close()
	n, err := train.New(g, linalg.NewPool(2))
	require.NoError(t, err)
	held, err := n.KeepZeros()
	require.NoError(t, err)
	require.Equal(t, 266200-4952, held)
	rep, err := train.Fit(context.Background(), n, m.Train, train.Options{Steps: 60, Rate: 1e-3, Optimiser: train.SGD{Momentum: 0.9}, Eval: m.Test, EvalBatch: 500}, nil)
	require.NoError(t, err)
	require.Greater(t, rep.Value, 0.975)
	require.NoError(t, n.Store())
	nonzero := 0
	for _, node := range g.Linears() {
		c, err := sparse.CountZeros(node.Weight.Data)
		require.NoError(t, err)
		nonzero += int(c.Weights - c.Zeros)
	}
	require.Equal(t, 4952, nonzero)
	// The graph holds what was trained.
	again, err := train.New(g, linalg.NewPool(2))
	require.NoError(t, err)
	v, err := train.Evaluate(again, m.Test, 500)
	require.NoError(t, err)
	require.Equal(t, rep.Value, v.Accuracy())
}

func TestONNXResNetFineTune(t *testing.T) {
	cifar, err := train.OpenCIFAR10(testenv.Data(t, "resnet/cifar10_test_jpeg_0000-1999.bin.gz"))
	require.NoError(t, err)
	g, err := loader.Open(testenv.Data(t, "resnet/resnet20.onnx"))
	require.NoError(t, err)
	defer g.Close()
	n, err := train.New(g, linalg.NewPool(2))
	require.NoError(t, err)
	data := cifar.Slice(0, 64)
	rep, err := train.Fit(context.Background(), n, data, train.Options{Steps: 4, Batch: 32, Rate: 1e-3, Optimiser: train.SGD{Momentum: 0.9}, Eval: data}, nil)
	require.NoError(t, err)
	require.NoError(t, n.Store())
	again, err := train.New(g, linalg.NewPool(2))
	require.NoError(t, err)
	v, err := train.Evaluate(again, data, 32)
	require.NoError(t, err)
	require.Equal(t, rep.EvalLoss, v.NLL)
}
