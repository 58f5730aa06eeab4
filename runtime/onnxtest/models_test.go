package onnxtest

import (
	"context"
	"math"
	"strings"
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

// TestSqueezeNet: logits of prepared photographs, dense and as the planner chooses
// (a third of the weights is nonzero).
func TestSqueezeNet(t *testing.T) {
	ws, closeFiles, err := loader.OpenTensors(testenv.Data(t, "squeezenet/reference_inputs_logits.safetensors"))
	require.NoError(t, err)
	defer closeFiles()
	data := map[string][]float32{}
	for _, w := range ws {
		data[w.Name], err = sparse.Read(w.Data)
		require.NoError(t, err)
	}
	for _, c := range []struct {
		name string
		opts []runtime.Option
	}{{"auto", nil}, {"dense", []runtime.Option{runtime.WithDense()}}, {"csr", []runtime.Option{runtime.WithLayout(sparse.LayoutCSR)}}} {
		if c.name == "auto" && testing.Short() {
			continue // measures every shape first
		}
		t.Run(c.name, func(t *testing.T) {
			s := session(t, "squeezenet/squeezenet_deepcompression.onnx", c.opts...)
			compared := 0
			for name, x := range data {
				photo, ok := strings.CutPrefix(name, "input.")
				if !ok {
					continue
				}
				y, err := s.RunFloats(context.Background(), x, 1, 3, 227, 227)
				require.NoError(t, err)
				want := data["logits."+photo]
				require.Len(t, y, len(want))
				worst := 0.0
				for i := range want {
					worst = max(worst, math.Abs(float64(y[i]-want[i])))
				}
				t.Logf("%s: largest difference %.2g", photo, worst)
				// Logits are up to 30; both sides sum 2,300 products a number in float32.
				require.Less(t, worst, 2e-4)
				compared++
			}
			require.Positive(t, compared)
		})
	}
}

// TestPhotos: 40 photographs from JPEG to class, as onnxruntime with Pillow: 25 in
// the first place, 35 in the first five.
func TestPhotos(t *testing.T) {
	if testing.Short() {
		t.Skip("40 photographs of half a megapixel; the logits of TestSqueezeNet are compared in a short run too")
	}
	d, err := dataset.Photos(testenv.Data(t, "squeezenet/photos"), dataset.Crop{Resize: 256, Size: 227})
	require.NoError(t, err)
	s := session(t, "squeezenet/squeezenet_deepcompression.onnx", runtime.WithDense())
	a := accuracy(t, s, d, dataset.Prepare{Mean: []float32{104, 117, 123}, BGR: true}, 4)
	t.Logf("top-1 %d, top-5 %d of %d in %.1f s", a.Top1, a.Top5, a.N, a.Seconds)
	require.Equal(t, 40, a.N)
	require.Equal(t, 25, a.Top1)
	require.Equal(t, 35, a.Top5)
}

// TestUnknownOp: what is not supported says which op, which node and which opset.
func TestUnknownOp(t *testing.T) {
	g := &model.Graph{Opsets: map[string]int{"": 17}, Constants: map[model.ValueID]*model.Tensor{}, Values: []model.Value{{Name: "x"}, {Name: "y"}}, Inputs: []model.ValueID{0}, Outputs: []model.ValueID{1}}
	n := &model.Node{Op: "Frobnicate", Name: "the_node", In: []model.ValueID{0}, Out: 1, Outs: []model.ValueID{1}, Attr: &model.TensorOp{Version: 17}}
	g.Nodes = []*model.Node{n}
	b := cpu.New()
	defer b.Close()
	_, err := runtime.New(g, b)
	require.ErrorIs(t, err, runtime.ErrUnsupported)
	require.ErrorContains(t, err, "Frobnicate")
	require.ErrorContains(t, err, "the_node")
	require.ErrorContains(t, err, "opset 17")
	n.Op = "Loop"
	_, err = runtime.New(g, b)
	require.ErrorIs(t, err, runtime.ErrUnsupported)
}
