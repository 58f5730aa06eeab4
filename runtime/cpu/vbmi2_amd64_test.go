package cpu

import (
	"testing"

	"github.com/sparserun/sparserun/linalg"
)

// withoutVBMI2 runs f as on a machine that has AVX-512 without it.
func withoutVBMI2(t *testing.T, f func()) {
	if linalg.ISA() != linalg.AVX512 {
		t.Skip("this machine does not run AVX-512")
	}
	before := hasVBMI2
	defer func() { hasVBMI2 = before }()
	hasVBMI2 = func() bool { return false }
	f()
}
