package cpu

import (
	"testing"

	"github.com/sparserun/sparserun/linalg"
)

// withoutVBMI2 runs f as on a machine that has AVX-512 without it.
func withoutVBMI2(t *testing.T, f func()) { without(t, &hasVBMI2, f) }

// withoutVBMI runs f as on a machine that has AVX-512 without VBMI and GFNI.
func withoutVBMI(t *testing.T, f func()) { without(t, &hasVBMI, f) }

func without(t *testing.T, extension *func() bool, f func()) {
	if linalg.ISA() != linalg.AVX512 {
		t.Skip("this machine does not run AVX-512")
	}
	before := *extension
	defer func() { *extension = before }()
	*extension = func() bool { return false }
	f()
}
