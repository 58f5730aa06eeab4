package onnxtest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/testenv"
)

// BenchmarkNetworks is one thread, dense, float32; bench/onnx compares with
// onnxruntime.
func BenchmarkNetworks(b *testing.B) {
	for _, c := range []struct {
		file  string
		shape []int
	}{
		{"lenet/lenet5_original.onnx", []int{16, 1, 28, 28}}, {"resnet/resnet20.onnx", []int{1, 3, 32, 32}}, {"squeezenet/squeezenet_deepcompression.onnx", []int{1, 3, 227, 227}},
	} {
		b.Run(c.file, func(b *testing.B) {
			g, err := loader.Open(testenv.Data(b, c.file))
			require.NoError(b, err)
			defer g.Close()
			s, err := runtime.New(g, cpu.New(cpu.Threads(1)), runtime.WithDense())
			require.NoError(b, err)
			defer s.Close()
			x, err := model.NewTensor(model.ElemF32, c.shape...)
			require.NoError(b, err)
			in := map[string]*model.Tensor{g.Values[g.Inputs[0]].Name: x}
			for b.Loop() {
				_, err := s.RunTensors(context.Background(), in)
				require.NoError(b, err)
			}
		})
	}
}
