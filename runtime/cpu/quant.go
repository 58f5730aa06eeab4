package cpu

import "math"

// quantiseRow turns x into int8 codes q with one scale per actGroup columns:
// x[i] ~ q[i]*scale[i/actGroup], scale = absmax/127, codes rounded to nearest
// even. len(q) = actGroup*len(scale); codes beyond len(x) are zero.
func quantiseRow(q []int8, scale []float32, x []float32) {
	for g := range scale {
		c := g * actGroup
		quantiseGroup(q[c:c+actGroup], &scale[g], x[c:min(c+actGroup, len(x))])
	}
}

func quantiseGroup(q []int8, scale *float32, x []float32) {
	var amax float32
	for _, v := range x {
		amax = max(amax, float32(math.Abs(float64(v))))
	}
	clear(q)
	*scale = amax / 127
	if inv := 127 / amax; amax > 0 && !math.IsInf(float64(inv), 0) {
		for i, v := range x {
			q[i] = int8(math.RoundToEven(float64(v * inv)))
		}
	}
}
