package train_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/dataset"
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

func openCIFAR(t *testing.T) (*train.Items, error) {
	d, err := dataset.CIFAR(testenv.Data(t, "resnet/cifar10_test_jpeg_0000-1999.bin.gz"))
	require.NoError(t, err)
	return d.Items(dataset.ImageNet)
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
	cifar, err := openCIFAR(t)
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
	cifar, err := openCIFAR(t)
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

// TestONNXSqueezeNet: a network of concatenations computes the reference's logits and has a gradient
// for every weight. Pruned weights stay zero through steps.
func TestONNXSqueezeNet(t *testing.T) {
	if testing.Short() {
		t.Skip("passes over images of 227 x 227")
	}
	n := openNet(t, "squeezenet/squeezenet_deepcompression.onnx")
	ws, done, err := loader.OpenTensors(testenv.Data(t, "squeezenet/reference_inputs_logits.safetensors"))
	require.NoError(t, err)
	defer done()
	ref := map[string][]float32{}
	for _, w := range ws {
		ref[w.Name], err = sparse.Read(w.Data)
		require.NoError(t, err)
	}
	var x []float32
	for name, v := range ref {
		photo, ok := strings.CutPrefix(name, "input.")
		if !ok {
			continue
		}
		x = append(x, v...)
		got, err := n.Forward(&train.Batch{Rows: 1, X: v}, false)
		require.NoError(t, err)
		want := ref["logits."+photo]
		require.Len(t, got, len(want))
		for i := range want { // logits reach 30; sums of thousands of float32 in another order
			require.InDelta(t, want[i], got[i], 1e-3)
		}
	}
	require.Len(t, x, 2*3*227*227)
	held, err := n.KeepZeros()
	require.NoError(t, err)
	require.Equal(t, 1244448-415921, held)
	_, err = train.Fit(context.Background(), n, &train.Items{Width: 3 * 227 * 227, X: x, Y: []int32{1, 2}}, train.Options{Steps: 1, Batch: 2, Rate: 1e-4, Optimiser: train.SGD{}}, nil)
	require.NoError(t, err)
	for _, p := range n.Params {
		require.NotZero(t, linalg.Dot(p.Grad, p.Grad), p.Name)
	}
	require.NoError(t, n.Store())
}
