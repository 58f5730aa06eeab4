package dataset

import (
	"os"
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
	d, err := CIFAR(file)
	require.NoError(t, err)
	require.Equal(t, 2000, d.Len())
	got, err := d.First(20).Items(ImageNet)
	require.NoError(t, err)
	raw := make([]float32, 3072)
	require.NoError(t, d.Read(19, raw))
	require.EqualValues(t, d.Labels[19], got.Y[19])
	for _, at := range []int{0, 1023, 1024, 3071} { // red, green, blue
		c := at / 1024
		require.InDelta(t, (raw[at]/255-ImageNet.Mean[c])/ImageNet.Std[c], got.X[19*3072+at], 1e-6)
	}
	_, err = d.Items(Prepare{Std: []float32{0}})
	require.ErrorIs(t, err, ErrData)
}

// TestCIFARRejects: whatever is no whole number of records of ten classes.
func TestCIFARRejects(t *testing.T) {
	for name, b := range map[string][]byte{"empty": {}, "cut": make([]byte, 3072), "label": append([]byte{10}, make([]byte, 3072)...), "gzip": {0x1f, 0x8b, 1}} {
		file := filepath.Join(t.TempDir(), "cifar")
		require.NoError(t, os.WriteFile(file, b, 0o600))
		_, err := CIFAR(file)
		require.ErrorIs(t, err, ErrData, name)
	}
}
