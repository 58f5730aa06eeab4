package cpu

import (
	"testing"

	"github.com/stretchr/testify/require"
)

type panicJob struct{ at int }

func (j panicJob) part(_, i int) {
	if i == j.at {
		panic("part")
	}
}

// TestPoolPanic: a part that panics does so in the job's caller, whichever worker ran
// it, and the pool goes on.
func TestPoolPanic(t *testing.T) {
	p := newPool(4)
	p.retain()
	defer p.release()
	for i := range 200 {
		require.PanicsWithValue(t, "part", func() { p.run(panicJob{i % 64}, 64) })
		p.run(panicJob{-1}, 64)
	}
}
