package runtime

import (
	"fmt"
	"slices"

	"gorgonia.org/tensor"
)

// rowMajor is x with its elements in the order of its shape, side by side: x itself,
// or a copy of a view that is transposed or sliced, or of a tensor by columns. The
// Data of such a tensor is in another order, or has gaps.
func rowMajor(x *tensor.Dense) (*tensor.Dense, error) {
	if x == nil {
		return nil, fmt.Errorf("runtime: want a tensor, got nil: %w", ErrShape)
	}
	shape, strides := []int(x.Shape()), x.Strides()
	if len(shape) == 0 {
		return x, nil
	}
	if len(strides) != len(shape) {
		return nil, fmt.Errorf("runtime: tensor of shape %v with %d strides: %w", shape, len(strides), ErrShape)
	}
	n, plain := 1, true
	for i, d := range slices.Backward(shape) {
		plain = plain && (d == 1 || strides[i] == n)
		n *= d
	}
	if plain {
		return x, nil
	}
	var data any
	switch d := x.Data().(type) {
	case []float32:
		data = gather(d, shape, strides)
	case []float64:
		data = gather(d, shape, strides)
	case []int8:
		data = gather(d, shape, strides)
	case []int16:
		data = gather(d, shape, strides)
	case []int32:
		data = gather(d, shape, strides)
	case []int64:
		data = gather(d, shape, strides)
	case []uint8:
		data = gather(d, shape, strides)
	case []uint16:
		data = gather(d, shape, strides)
	case []uint32:
		data = gather(d, shape, strides)
	case []uint64:
		data = gather(d, shape, strides)
	case []bool:
		data = gather(d, shape, strides)
	case []string:
		data = gather(d, shape, strides)
	default:
		return nil, fmt.Errorf("runtime: view of %v: %w", x.Dtype(), ErrShape)
	}
	return tensor.New(tensor.WithShape(shape...), tensor.WithBacking(data)), nil
}

// gather reads elements that lie strides apart, the last dimension fastest.
func gather[T any](from []T, shape, strides []int) []T {
	n := 1
	for _, d := range shape {
		n *= d
	}
	out, index, at := make([]T, n), make([]int, len(shape)), 0
	for k := range out {
		out[k] = from[at]
		for i, d := range slices.Backward(shape) {
			index[i]++
			at += strides[i]
			if index[i] < d {
				break
			}
			at -= d * strides[i]
			index[i] = 0
		}
	}
	return out
}
