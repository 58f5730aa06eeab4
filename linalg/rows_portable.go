package linalg

import "math"

// op names an element-wise kernel.
type op int

const (
	opAdd op = iota
	opMul
	opScaleMul // a * x * y
	opSiLUGate
	opScale
	opSigmoid
	opGELUTanh
	opGELUErf
)

func dotPortable(x, y []float32) float32 {
	var s float32
	for i, v := range x {
		s += v * y[i]
	}
	return s
}

func axpyPortable(a float32, x, y []float32) {
	for i, v := range x {
		y[i] += a * v
	}
}

func maximumPortable(x []float32) float32 {
	best := float32(math.Inf(-1))
	for _, v := range x {
		if v > best {
			best = v
		}
	}
	return best
}

func expSumPortable(dst, x []float32, shift float32) float32 {
	var s float32
	for i, v := range x {
		e := float32(math.Exp(float64(v - shift)))
		dst[i] = e
		s += e
	}
	return s
}

func rotatePortable(x, y, cos, sin []float32) {
	for i, c := range cos {
		a, b := x[i], y[i]
		x[i], y[i] = a*c-b*sin[i], b*c+a*sin[i]
	}
}

func sigmoid(x float32) float64 { return 1 / (1 + math.Exp(-float64(x))) }

func binaryPortable(o op, dst, x, y []float32, a float32) {
	for i, v := range x {
		switch o {
		case opAdd:
			dst[i] = v + y[i]
		case opMul:
			dst[i] = v * y[i]
		case opScaleMul:
			dst[i] = a * v * y[i]
		case opSiLUGate:
			dst[i] = float32(float64(v) * sigmoid(v) * float64(y[i]))
		}
	}
}

func unaryPortable(o op, dst, x []float32, a float32) {
	for i, v := range x {
		switch o {
		case opScale:
			dst[i] = a * v
		case opSigmoid:
			dst[i] = float32(sigmoid(v))
		case opGELUTanh:
			f := float64(v)
			dst[i] = float32(f / (1 + math.Exp(-2*math.Sqrt(2/math.Pi)*(f+0.044715*f*f*f)))) // (1+tanh(z))/2 without its cancellation
		case opGELUErf:
			dst[i] = float32(float64(v) / 2 * math.Erfc(-float64(v)/math.Sqrt2))
		}
	}
}

func halfToFloatPortable(dst []float32, src []uint16) {
	for i, h := range src {
		sign, exp, frac := uint32(h>>15)<<31, uint32(h>>10&31), uint32(h&1023)
		switch exp {
		case 0:
			f := float32(frac) * 0x1p-24
			dst[i] = math.Float32frombits(math.Float32bits(f) | sign)
		case 31:
			if frac != 0 {
				frac |= 512 // a quiet NaN, as the hardware makes it
			}
			dst[i] = math.Float32frombits(sign | 255<<23 | frac<<13)
		default:
			dst[i] = math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
		}
	}
}

func bfloatToFloatPortable(dst []float32, src []uint16) {
	for i, h := range src {
		dst[i] = math.Float32frombits(uint32(h) << 16)
	}
}

func floatToHalfPortable(dst []uint16, src []float32) {
	for i, f := range src {
		b := math.Float32bits(f)
		sign, x := uint16(b>>16&0x8000), b&0x7fffffff
		switch {
		case x > 0x7f800000:
			dst[i] = sign | 0x7e00 | uint16(x>>13&1023)
		case x >= 0x477ff000: // 65520 and more round to infinity
			dst[i] = sign | 0x7c00
		case x < 0x38800000: // below 2^-14: a multiple of 2^-24
			dst[i] = sign | uint16(math.RoundToEven(float64(math.Float32frombits(x))*0x1p24))
		default:
			x += 0xfff + x>>13&1
			dst[i] = sign | uint16(x>>13-112<<10)
		}
	}
}
