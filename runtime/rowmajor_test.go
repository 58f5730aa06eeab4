package runtime

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"gorgonia.org/tensor"
)

// TestRowMajor: views are read as their shape says, not as their memory lies.
func TestRowMajor(t *testing.T) {
	counted := func(shape ...int) *tensor.Dense {
		return tensor.New(tensor.WithShape(shape...), tensor.WithBacking(tensor.Range(tensor.Float32, 0, tensor.Shape(shape).TotalSize())))
	}
	turned := func(axes ...int) *tensor.Dense {
		x := counted(2, 3, 4)
		require.NoError(t, x.T(axes...))
		return x
	}
	slice := func(x *tensor.Dense, s ...tensor.Slice) *tensor.Dense {
		v, err := x.Slice(s...)
		require.NoError(t, err)
		return v.(*tensor.Dense)
	}
	for name, x := range map[string]*tensor.Dense{
		"plain":           counted(2, 3, 4),
		"transposed":      turned(2, 1, 0),
		"two axes":        turned(0, 2, 1),
		"columns":         slice(counted(3, 5), nil, tensor.S(1, 4)),
		"one column":      slice(counted(3, 5), nil, tensor.S(2)),
		"every second":    slice(counted(6, 2), tensor.S(0, 6, 2)),
		"rows":            slice(counted(3, 5), tensor.S(1, 3)),
		"by columns":      tensor.New(tensor.WithShape(2, 3), tensor.AsFortran([]float32{0, 3, 1, 4, 2, 5})),
		"a row":           counted(1, 4),
		"a column":        counted(4, 1),
		"slice of turned": slice(turned(2, 1, 0), tensor.S(1, 3)),
	} {
		y, err := rowMajor(x)
		require.NoError(t, err, name)
		require.Equal(t, x.Shape(), y.Shape(), name)
		got := y.Data().([]float32)
		require.Len(t, got, x.Shape().TotalSize(), name)
		index := make([]int, x.Dims())
		for k := range got {
			rest := k
			for i := x.Dims() - 1; i >= 0; i-- {
				index[i] = rest % x.Shape()[i]
				rest /= x.Shape()[i]
			}
			want, err := x.At(index...)
			require.NoError(t, err, name)
			require.Equal(t, want, got[k], "%s %v", name, index)
		}
	}
	_, err := rowMajor(nil)
	require.ErrorIs(t, err, ErrShape)
}

// TestRunView: token ids in every second place of a tensor.
func TestRunView(t *testing.T) {
	s := fakeSession(t, Options{Select: 2})
	ids := tensor.New(tensor.WithShape(3, 2), tensor.WithBacking([]int32{0, 9, 1, 9, 2, 9}))
	v, err := ids.Slice(nil, tensor.S(0))
	require.NoError(t, err)
	y, err := s.Run(context.Background(), v.(*tensor.Dense))
	require.NoError(t, err)
	require.Equal(t, tensor.Shape{3, 40}, y.Shape())
	for i, want := range []int{1, 2, 3} {
		require.Equal(t, float32(10), y.Data().([]float32)[i*40+want])
	}
	_, err = s.Run(context.Background(), nil)
	require.ErrorIs(t, err, ErrShape)
	_, err = New(nil, nil)
	require.ErrorIs(t, err, ErrUnsupported)
}
