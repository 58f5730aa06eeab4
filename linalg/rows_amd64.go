package linalg

import "math"

func dot(x, y []float32) float32 {
	if len(x) == 0 {
		return 0
	}
	switch ISA() {
	case AVX512:
		return dotAVX512(len(x), &x[0], &y[0])
	case AVX2:
		return dotAVX2(len(x), &x[0], &y[0])
	default:
		return dotPortable(x, y)
	}
}

func axpy(a float32, x, y []float32) {
	if len(x) == 0 {
		return
	}
	switch ISA() {
	case AVX512:
		axpyAVX512(len(x), a, &x[0], &y[0])
	case AVX2:
		axpyAVX2(len(x), a, &x[0], &y[0])
	default:
		axpyPortable(a, x, y)
	}
}

func maximum(x []float32) float32 {
	if len(x) == 0 {
		return float32(math.Inf(-1))
	}
	switch ISA() {
	case AVX512:
		return maxAVX512(len(x), &x[0])
	case AVX2:
		return maxAVX2(len(x), &x[0])
	default:
		return maximumPortable(x)
	}
}

func expSum(dst, x []float32, shift float32) float32 {
	if len(x) == 0 {
		return 0
	}
	switch ISA() {
	case AVX512:
		return expSumAVX512(len(x), &dst[0], &x[0], shift)
	case AVX2:
		return expSumAVX2(len(x), &dst[0], &x[0], shift)
	default:
		return expSumPortable(dst, x, shift)
	}
}

func rotate(x, y, cos, sin []float32) {
	if len(cos) == 0 {
		return
	}
	switch ISA() {
	case AVX512:
		rotateAVX512(len(cos), &x[0], &y[0], &cos[0], &sin[0])
	case AVX2:
		rotateAVX2(len(cos), &x[0], &y[0], &cos[0], &sin[0])
	default:
		rotatePortable(x, y, cos, sin)
	}
}

func binary(o op, dst, x, y []float32, a float32) {
	if len(dst) == 0 {
		return
	}
	switch ISA() {
	case AVX512:
		switch o {
		case opAdd:
			addAVX512(len(dst), &dst[0], &x[0], &y[0], a)
		case opMul:
			mulAVX512(len(dst), &dst[0], &x[0], &y[0], a)
		case opScaleMul:
			scaleMulAVX512(len(dst), &dst[0], &x[0], &y[0], a)
		case opSiLUGate:
			siluGateAVX512(len(dst), &dst[0], &x[0], &y[0], a)
		}
	case AVX2:
		switch o {
		case opAdd:
			addAVX2(len(dst), &dst[0], &x[0], &y[0], a)
		case opMul:
			mulAVX2(len(dst), &dst[0], &x[0], &y[0], a)
		case opScaleMul:
			scaleMulAVX2(len(dst), &dst[0], &x[0], &y[0], a)
		case opSiLUGate:
			siluGateAVX2(len(dst), &dst[0], &x[0], &y[0], a)
		}
	default:
		binaryPortable(o, dst, x, y, a)
	}
}

func unary(o op, dst, x []float32, a float32) {
	if len(dst) == 0 {
		return
	}
	switch ISA() {
	case AVX512:
		switch o {
		case opScale:
			scaleAVX512(len(dst), &dst[0], &x[0], a)
		case opSigmoid:
			sigmoidAVX512(len(dst), &dst[0], &x[0], a)
		case opGELUTanh:
			geluTanhAVX512(len(dst), &dst[0], &x[0], a)
		case opGELUErf:
			geluErfAVX512(len(dst), &dst[0], &x[0], a)
		}
	case AVX2:
		switch o {
		case opScale:
			scaleAVX2(len(dst), &dst[0], &x[0], a)
		case opSigmoid:
			sigmoidAVX2(len(dst), &dst[0], &x[0], a)
		case opGELUTanh:
			geluTanhAVX2(len(dst), &dst[0], &x[0], a)
		case opGELUErf:
			geluErfAVX2(len(dst), &dst[0], &x[0], a)
		}
	default:
		unaryPortable(o, dst, x, a)
	}
}

func halfToFloat(dst []float32, src []uint16) {
	whole := 0
	switch s := ISA(); {
	case s == AVX512 && len(dst) >= 16:
		whole = len(dst) &^ 15
		f16ToF32AVX512(whole, &dst[0], &src[0])
	case s >= AVX2 && len(dst) >= 8:
		whole = len(dst) &^ 7
		f16ToF32AVX2(whole, &dst[0], &src[0])
	}
	halfToFloatPortable(dst[whole:], src[whole:])
}

func bfloatToFloat(dst []float32, src []uint16) {
	whole := 0
	switch s := ISA(); {
	case s == AVX512 && len(dst) >= 16:
		whole = len(dst) &^ 15
		bf16ToF32AVX512(whole, &dst[0], &src[0])
	case s >= AVX2 && len(dst) >= 8:
		whole = len(dst) &^ 7
		bf16ToF32AVX2(whole, &dst[0], &src[0])
	}
	bfloatToFloatPortable(dst[whole:], src[whole:])
}

func floatToHalf(dst []uint16, src []float32) {
	whole := 0
	switch s := ISA(); {
	case s == AVX512 && len(dst) >= 16:
		whole = len(dst) &^ 15
		f32ToF16AVX512(whole, &dst[0], &src[0])
	case s >= AVX2 && len(dst) >= 8:
		whole = len(dst) &^ 7
		f32ToF16AVX2(whole, &dst[0], &src[0])
	}
	floatToHalfPortable(dst[whole:], src[whole:])
}
