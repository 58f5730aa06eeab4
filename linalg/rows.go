package linalg

import "math"

// Kernels over one row. A dst may be one of its sources; lengths are those of dst (or
// of the first vector) and others may be longer. exp is Cephes' degree-5 polynomial
// in the SIMD kernels (relative error below 2e-7; 0 below -87.34, saturating at 2.4e38
// above 88.37) and math.Exp in the portable ones.

// Dot is the sum of x[i]*y[i].
func Dot(x, y []float32) float32 { return dot(x, y[:len(x)]) }

// Axpy: y[i] += a * x[i].
func Axpy(a float32, x, y []float32) { axpy(a, x, y[:len(x)]) }

// Scale: dst[i] = a * x[i].
func Scale(dst []float32, a float32, x []float32) { unary(opScale, dst, x[:len(dst)], a) }

// Add: dst[i] = x[i] + y[i].
func Add(dst, x, y []float32) { binary(opAdd, dst, x[:len(dst)], y[:len(dst)], 0) }

// Mul: dst[i] = x[i] * y[i].
func Mul(dst, x, y []float32) { binary(opMul, dst, x[:len(dst)], y[:len(dst)], 0) }

// Max is the largest of x, -Inf of none. NaNs may be passed over.
func Max(x []float32) float32 { return maximum(x) }

// Sigmoid: dst[i] = 1 / (1 + exp(-x[i])).
func Sigmoid(dst, x []float32) { unary(opSigmoid, dst, x[:len(dst)], 0) }

// SiLUGate: dst[i] = gate[i] * sigmoid(gate[i]) * up[i] (SwiGLU, Shazeer 2020).
func SiLUGate(dst, gate, up []float32) {
	binary(opSiLUGate, dst, gate[:len(dst)], up[:len(dst)], 0)
}

// GELU: dst = x * (1 + erf(x/sqrt 2)) / 2; absolute error below 1e-7 * max(|x|, 1).
func GELU(dst, x []float32) { unary(opGELUErf, dst, x[:len(dst)], 0) }

// GELUTanh is GELU's tanh form (GPT-2).
func GELUTanh(dst, x []float32) { unary(opGELUTanh, dst, x[:len(dst)], 0) }

// ExpSum: dst[i] = exp(x[i] - shift); returns the sum of dst.
func ExpSum(dst, x []float32, shift float32) float32 { return expSum(dst, x[:len(dst)], shift) }

// Softmax: dst = exp(scale*x - max) / sum, scale > 0. A row of -Inf alone gives NaN.
func Softmax(dst, x []float32, scale float32) {
	if len(dst) == 0 {
		return
	}
	if scale != 1 {
		Scale(dst, scale, x)
		x = dst
	}
	s := expSum(dst, x[:len(dst)], maximum(x[:len(dst)]))
	Scale(dst, 1/s, dst)
}

// RMSNorm: dst = x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019). It returns
// the factor 1/sqrt(...), which the backward pass wants.
func RMSNorm(dst, x, weight []float32, eps float32) float32 {
	x = x[:len(dst)]
	r := float32(1 / math.Sqrt(float64(dot(x, x))/float64(len(x))+float64(eps)))
	binary(opScaleMul, dst, x, weight[:len(dst)], r)
	return r
}

// LayerNorm: dst = (x - mean) / sqrt(var + eps) * weight + bias (Ba et al. 2016), bias nil
// for none; mean and (biased) variance in float64, in two passes. It returns the mean and the
// factor 1/sqrt(...).
func LayerNorm(dst, x, weight, bias []float32, eps float32) (mean, rstd float32) {
	x = x[:len(dst)]
	var s, q float64
	for _, v := range x {
		s += float64(v)
	}
	m := s / float64(len(x))
	for _, v := range x {
		d := float64(v) - m
		q += d * d
	}
	mean, rstd = float32(m), float32(1/math.Sqrt(q/float64(len(x))+float64(eps)))
	for i, v := range x {
		y := (v - mean) * rstd * weight[i]
		if bias != nil {
			y += bias[i]
		}
		dst[i] = y
	}
	return mean, rstd
}

// Rope holds the rotations of the first positions: cos and sin [positions, half].
type Rope struct {
	Half     int
	Cos, Sin []float32
}

// NewRope tabulates scale*cos and scale*sin of position * invFreq[i].
func NewRope(invFreq []float64, scale float32, positions int) *Rope {
	half := len(invFreq)
	r := &Rope{Half: half, Cos: make([]float32, positions*half), Sin: make([]float32, positions*half)}
	for p := range positions {
		for i, f := range invFreq {
			s, c := math.Sincos(float64(p) * f)
			r.Cos[p*half+i], r.Sin[p*half+i] = float32(c)*scale, float32(s)*scale
		}
	}
	return r
}

// Rotate turns, in place, the pairs (i, i+half) of every head of a row (half-split
// RoPE, Su et al. 2021): the row is a whole number of heads of 2*half.
func (r *Rope) Rotate(row []float32, position int) {
	h := r.Half
	cos, sin := r.Cos[position*h:(position+1)*h], r.Sin[position*h:(position+1)*h]
	for ; len(row) >= 2*h; row = row[2*h:] {
		rotate(row[:h], row[h:2*h], cos, sin)
	}
}

// Unrotate is Rotate's transpose, which is its gradient: pairs turn the other way.
// The two halves trade places in the kernel, so that no negated table is needed.
func (r *Rope) Unrotate(row []float32, position int) {
	h := r.Half
	cos, sin := r.Cos[position*h:(position+1)*h], r.Sin[position*h:(position+1)*h]
	for ; len(row) >= 2*h; row = row[2*h:] {
		rotate(row[h:2*h], row[:h], cos, sin)
	}
}

// F16ToF32 converts half precision.
func F16ToF32(dst []float32, src []uint16) { halfToFloat(dst, src[:len(dst)]) }

// BF16ToF32 converts bfloat16.
func BF16ToF32(dst []float32, src []uint16) { bfloatToFloat(dst, src[:len(dst)]) }

// F32ToF16 converts to half precision, to the nearest, ties to even.
func F32ToF16(dst []uint16, src []float32) { floatToHalf(dst, src[:len(dst)]) }
