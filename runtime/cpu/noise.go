package cpu

import "github.com/sparserun/sparserun/sparse"

// Noise is a random weight for measurements: a share density of nonzeros in
// [-0.5, 0.5), or two of every four columns.
func Noise(rows, cols int, density float64, nm24 bool) sparse.Matrix {
	return noiseMatrix{rows, cols, density, nm24}
}

// noiseMatrix is a random weight that is made row by row when read.
type noiseMatrix struct {
	rows, cols int
	density    float64
	nm24       bool
}

func (m noiseMatrix) Dims() (int, int)      { return m.rows, m.cols }
func (m noiseMatrix) Layout() sparse.Layout { return sparse.LayoutDense }
func (m noiseMatrix) DType() sparse.DType   { return sparse.F32 }
func (m noiseMatrix) Bytes() sparse.Bytes {
	return sparse.Bytes{Values: 4 * int64(m.rows) * int64(m.cols)}
}

// ReadRows implements sparse.Matrix.
func (m noiseMatrix) ReadRows(dst []float32, r0 int) error {
	for i := range dst {
		n := uint64(r0*m.cols + i)
		x := noise(n)
		dst[i] = float32(x) - 0.5
		if m.nm24 {
			// One of six pairs of each group.
			pair := int(noise(n-uint64((i%m.cols)%4))*6) % 6
			if pairs24[pair]>>((i%m.cols)%4)&1 == 0 {
				dst[i] = 0
			}
		} else if noise(n^0x5555555555) >= m.density {
			dst[i] = 0
		}
	}
	return nil
}

// pairs24 are the masks of two of four columns.
var pairs24 = [6]byte{0b0011, 0b0101, 0b0110, 0b1001, 0b1010, 0b1100}

// noise is a number in [0, 1) that looks random (splitmix64, Steele et al. 2014).
func noise(n uint64) float64 {
	z := (n + 1) * 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float64((z^z>>31)>>11) * 0x1p-53
}
