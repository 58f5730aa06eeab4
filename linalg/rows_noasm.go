//go:build !amd64

package linalg

func dot(x, y []float32) float32                     { return dotPortable(x, y) }
func axpy(a float32, x, y []float32)                 { axpyPortable(a, x, y) }
func maximum(x []float32) float32                    { return maximumPortable(x) }
func expSum(dst, x []float32, shift float32) float32 { return expSumPortable(dst, x, shift) }
func rotate(x, y, cos, sin []float32)                { rotatePortable(x, y, cos, sin) }
func binary(o op, dst, x, y []float32, a float32)    { binaryPortable(o, dst, x, y, a) }
func unary(o op, dst, x []float32, a float32)        { unaryPortable(o, dst, x, a) }
func halfToFloat(dst []float32, src []uint16)        { halfToFloatPortable(dst, src) }
func bfloatToFloat(dst []float32, src []uint16)      { bfloatToFloatPortable(dst, src) }
func floatToHalf(dst []uint16, src []float32)        { floatToHalfPortable(dst, src) }
