//go:build !amd64

package cpu

import (
	"unsafe"

	"github.com/sparserun/sparserun/sparse"
)

// Only amd64 has kernels of tiled weights; elsewhere packerFor finds none and
// nothing below runs.

func hasVNNI() bool                     { return false }
func tileFor(tileKey) (tileKernel, int) { return 0, 0 }
func zeroKernel(int) tileKernel         { return 0 }
func (k tileKernel) run(*tile, int)     {}
func wideKernel(tileKernel) tileKernel  { return 0 }
func unpackTile(tileKernel, *float32, unsafe.Pointer, int) {
}
func (q *quantArgs) run()                   {}
func halfRow(dst []uint16, x []float32)     {}
func absMax(x []float32) float32            { return 0 }
func quantCodes([]int8, []float32, float32) {}

func readBytes(b []byte)    { readBytesPortable(b) }
func fmaPeak(n int) float64 { fmaPeakPortable(n); return 2 * 8 }
func dotPeak(int) float64   { return 0 }

func csrHas(sparse.DType) bool                          { return false }
func csrShape() (wide bool, block int)                  { return false, 8 }
func csrOut(*float32, int, *float32, int, *float32)     {}
func transposeRows([]float32, int, []float32, int, int) {}
func (m *csrTiled) run(*csrArgs, int)                   {}
func (m *csrTiled) runBatch(*csrArgs, int)              {}
func runList(*csrArgs, int)                             {}
