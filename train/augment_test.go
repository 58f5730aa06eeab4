package train

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAugmented: shifted and mirrored images are the image's pixels and zeros in the right places;
// the same seed draws the same.
func TestAugmented(t *testing.T) {
	d := &Items{Width: 24, X: make([]float32, 24), Y: []int32{3}}
	for i := range d.X {
		d.X[i] = float32(i + 1)
	}
	draw := func(seed uint64, n int) (all [][]float32) {
		a := &Augmented{Items: d, C: 2, H: 3, W: 4, Shift: 1, Mirror: true, Seed: seed}
		var b Batch
		for range n {
			a.Fill(&b, []int{0})
			require.Equal(t, []int32{3}, b.Targets)
			all = append(all, slices.Clone(b.X))
		}
		return all
	}
	seen := map[string]bool{}
	for _, x := range draw(1, 300) {
		found := ""
		for dy := -1; dy <= 1; dy++ {
			for dx := -1; dx <= 1; dx++ {
				for _, mirror := range []bool{false, true} {
					want := make([]float32, 24)
					for c := range 2 {
						for y := range 3 {
							for col := range 4 {
								from := col
								if mirror {
									from = 3 - col
								}
								if y+dy >= 0 && y+dy < 3 && from+dx >= 0 && from+dx < 4 {
									want[c*12+y*4+col] = float32(c*12 + (y+dy)*4 + from + dx + 1)
								}
							}
						}
					}
					if slices.Equal(want, x) {
						found = string(rune('a'+dy+1)) + string(rune('a'+dx+1)) + map[bool]string{true: "m"}[mirror]
					}
				}
			}
		}
		require.NotEmpty(t, found)
		seen[found] = true
	}
	require.Len(t, seen, 18, "all nine shifts, mirrored and not")
	require.Equal(t, draw(7, 20), draw(7, 20))
	require.NotEqual(t, draw(7, 20), draw(8, 20))
}
