package sparse

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// storedCodes is a matrix whose codes do not reach the limit of their type in most
// groups, so that quantising its weights again would choose other scales.
func storedCodes(t *testing.T, typ DType, rows, cols, group int) *Dense {
	rng := rand.New(rand.NewPCG(uint64(cols), uint64(group)))
	v, err := MakeValues(typ, rows*stride(typ, cols))
	require.NoError(t, err)
	q := &Quant{Group: group, Type: F16}
	for range rows * q.Groups(cols) {
		q.Scales = append(q.Scales, F16ToF32(F32ToF16(rng.Float32()/100+1e-4)))
	}
	for r := range rows {
		for c := 0; c < cols; c += 4 { // holds 2:4
			v.Set(r*stride(typ, cols)+c+rng.IntN(2), float32(rng.IntN(11)-8))
			if c+3 < cols {
				v.Set(r*stride(typ, cols)+c+2+rng.IntN(2), float32(rng.IntN(11)-8))
			}
		}
	}
	return &Dense{R: rows, C: cols, Values: v, Quant: q}
}

// TestPackStoredCodes: packing a quantised matrix in its own type and groups, or in
// smaller ones that divide them, changes no weight; in others it rounds again.
func TestPackStoredCodes(t *testing.T) {
	for _, typ := range []DType{Int8, Int4} {
		for _, group := range []int{0, 32, 64, 128} {
			d := storedCodes(t, typ, 5, 132, group)
			want, err := Read(d)
			require.NoError(t, err)
			for _, layout := range Layouts {
				for _, asked := range []int{0, 32, 64, 128} {
					p, err := Pack(d, layout, typ, asked)
					require.NoError(t, err)
					require.Equal(t, layout, p.Layout())
					require.Equal(t, asked, QuantOf(p).Group)
					got, err := Read(p)
					require.NoError(t, err)
					if group == 0 || asked > 0 && group%asked == 0 {
						require.Equal(t, want, got, "%v %v in groups of %d, asked for %d", layout, typ, group, asked)
					} else {
						require.NotEqual(t, want, got, "%v %v in groups of %d, asked for %d", layout, typ, group, asked)
					}
					again, err := Pack(p, LayoutDense, typ, asked)
					require.NoError(t, err)
					back, err := Read(again)
					require.NoError(t, err)
					require.Equal(t, got, back)
				}
			}
		}
	}
}

func TestCodesDeclines(t *testing.T) {
	d := storedCodes(t, Int8, 3, 64, 32)
	for _, c := range []struct {
		typ   DType
		group int
	}{{Int4, 32}, {Int8, 0}, {Int8, 64}, {F16, 32}} {
		_, q, err := Codes(d, c.typ, c.group)
		require.NoError(t, err)
		require.Nil(t, q, "%v", c)
	}
	d.Quant.Zeros = make([]int8, 6)
	d.Quant.Zeros[1] = 1
	_, q, err := Codes(d, Int8, 32)
	require.NoError(t, err)
	require.Nil(t, q, "zero points")
	_, q, err = ZeroCodes(d, Int8, 32)
	require.NoError(t, err)
	require.Equal(t, d.Quant.Zeros, q.Zeros)
	codes, q, err := ZeroCodes(d, Int8, 16)
	require.NoError(t, err)
	require.Equal(t, []int8{0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0}, q.Zeros)
	codes.(*Dense).Quant = q
	want, err := Read(d)
	require.NoError(t, err)
	got, err := Read(codes)
	require.NoError(t, err)
	require.Equal(t, want, got)
	d.Quant.Zeros = nil
	_, q, err = ZeroCodes(d, Int8, 32)
	require.NoError(t, err)
	require.Nil(t, q, "none")
	_, q, err = Codes(NewDense(1, 2, []float32{1, 2}), Int8, 0)
	require.NoError(t, err)
	require.Nil(t, q)
}
