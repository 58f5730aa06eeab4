package dataset

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/testenv"
	"github.com/sparserun/sparserun/train"
)

// TestItems: prepared by Prepare, MNIST and CIFAR are to the bit or a rounding what train opens.
func TestItems(t *testing.T) {
	dir := filepath.Dir(testenv.Data(t, "mnist/train-images-idx3-ubyte.gz"))
	want, err := train.OpenMNIST(dir)
	require.NoError(t, err)
	for _, c := range []struct {
		open func(string) (*Images, error)
		want *train.Items
	}{{MNISTTraining, want.Train}, {MNIST, want.Test}} {
		d, err := c.open(dir)
		require.NoError(t, err)
		got, err := d.Items(Prepare{Scale: 255})
		require.NoError(t, err)
		require.Equal(t, c.want.Y, got.Y)
		require.Equal(t, c.want.X[:784*50], got.X[:784*50])
		require.Equal(t, c.want.X[len(got.X)-784:], got.X[len(got.X)-784:])
	}
	file := testenv.Data(t, "resnet/cifar10_test_jpeg_0000-1999.bin.gz")
	cifar, err := train.OpenCIFAR10(file)
	require.NoError(t, err)
	d, err := CIFAR(file)
	require.NoError(t, err)
	got, err := d.First(20).Items(Prepare{Scale: 255, Mean: []float32{0.485, 0.456, 0.406}, Std: []float32{0.229, 0.224, 0.225}})
	require.NoError(t, err)
	require.InDeltaSlice(t, cifar.X[:20*3072], got.X, 1e-6)
	_, err = d.Items(Prepare{Std: []float32{0}})
	require.ErrorIs(t, err, ErrData)
}
