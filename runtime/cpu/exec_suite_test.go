package cpu_test

import (
	"fmt"
	"testing"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/backendtest"
	"github.com/sparserun/sparserun/runtime/cpu"
)

// TestConformance runs the suite with every instruction set of this machine, alone
// and with more workers than it may have cores. No emulator runs AVX-512: what the
// log does not name was not exercised here.
func TestConformance(t *testing.T) {
	eachISA(t, func(t *testing.T) {
		for _, threads := range []int{1, 3} {
			t.Run(fmt.Sprintf("%d threads", threads), func(t *testing.T) {
				backendtest.Run(t, func() runtime.Backend { return cpu.New(cpu.Threads(threads)) })
			})
		}
	})
}
