package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// stored is a quantised 2:4 matrix as a file may have it: codes that use the whole
// range of their type, or a part of it, and scales of the given type.
func stored(t *testing.T, typ, scales sparse.DType, rows, cols, group int) *sparse.Dense {
	rng := rand.New(rand.NewPCG(uint64(group), uint64(scales)))
	ld := cols
	v, err := sparse.MakeValues(typ, rows*ld)
	require.NoError(t, err)
	q := &sparse.Quant{Group: group, Type: scales}
	for range rows * q.Groups(cols) {
		s := float32(math.Exp(rng.NormFloat64())) / 200
		switch scales {
		case sparse.F16:
			s = sparse.F16ToF32(sparse.F32ToF16(s))
		case sparse.BF16:
			s = sparse.BF16ToF32(sparse.F32ToBF16(s))
		}
		q.Scales = append(q.Scales, s)
	}
	limit := map[sparse.DType]int{sparse.Int8: 128, sparse.Int4: 8}[typ]
	for i := 0; i < rows*ld; i += 4 {
		most := limit >> rng.IntN(3)
		for _, c := range rng.Perm(4)[:2] {
			v.Set(i+c, float32(rng.IntN(2*most)-most))
		}
	}
	return &sparse.Dense{R: rows, C: cols, Values: v, Quant: q}
}

// TestStoredCodes: a weight that is stored in the type and groups it runs in is
// packed code by code and scale by scale, in every layout and with every instruction
// set, and its product is that of the weights it stands for.
func TestStoredCodes(t *testing.T) {
	const rows, cols = 70, 384
	eachISA(t, func(t *testing.T) {
		for _, layout := range sparse.Layouts {
			for _, c := range []struct {
				typ    sparse.DType
				groups []int
			}{{sparse.Int8, []int{0, 32, 64, 96, 128}}, {sparse.Int4, []int{0, 32, 64, 96, 128}}} {
				for _, group := range c.groups {
					for _, scales := range []sparse.DType{sparse.F32, sparse.F16, sparse.BF16} {
						name := fmt.Sprintf("%v %v, groups of %d, scales in %v", layout, c.typ, group, scales)
						src := stored(t, c.typ, scales, rows, cols, group)
						k := runtime.Kernel{Op: model.OpLinear, Layout: layout, Weight: c.typ, Act: sparse.Int8}
						w, err := pack(src, k, group, &scratch{})
						require.NoError(t, err, name)
						want, err := sparse.Read(src)
						require.NoError(t, err)
						got := weights(w, rows, cols)
						// Scales in groups of float32 are rounded to half precision beside their row's.
						exact := group == 0 || scales != sparse.F32
						for i := range want {
							if d := math.Abs(float64(want[i] - got[i])); d > 0 && (exact || d > math.Abs(float64(want[i]))/2048) {
								t.Fatalf("%s: weight %d: want %g, got %g", name, i, want[i], got[i])
							}
						}
						x := make([]float32, cols)
						for i := range x {
							x[i] = float32(math.Sin(float64(i)))
						}
						out := make([]float32, rows)
						w.mul(out, rows, newActs(t, w.form(), x, 1, cols), epilogue{}, 0, rows)
						if w.form() == formInt8Panels || w.form() == formInt8 {
							x = rounded(x, 1, cols)
						}
						for r := range rows {
							var sum, mag float64
							for i, a := range x {
								p := float64(a) * float64(got[r*cols+i])
								sum, mag = sum+p, mag+math.Abs(p)
							}
							// As in checkTiled.
							require.InDelta(t, sum, out[r], 2e-6*(mag+10)+1e-6, "%s: row %d", name, r)
						}
						w.free()
					}
				}
			}
		}
	})
}

// TestStoredZeros: dense int4 with zero points keeps codes, scales and zero points, and
// its product is that of the weights it stands for, at any number of tokens.
func TestStoredZeros(t *testing.T) {
	k := runtime.Kernel{Op: model.OpLinear, Layout: sparse.LayoutDense, Weight: sparse.Int4, Act: sparse.Int8}
	check := func(t *testing.T, rows, cols, group int) {
		name := fmt.Sprintf("[%d %d], groups of %d", rows, cols, group)
		src := stored(t, sparse.Int4, sparse.F16, rows, cols, group)
		rng := rand.New(rand.NewPCG(uint64(rows), uint64(cols)))
		for range src.Quant.Scales {
			src.Quant.Zeros = append(src.Quant.Zeros, int8(rng.IntN(16)-8))
		}
		src.Quant.Zeros[0] = 127 // as far as a byte goes
		want, err := sparse.Read(src)
		require.NoError(t, err)
		w, err := pack(src, k, group, &scratch{})
		require.NoError(t, err)
		defer w.free()
		_, slow := w.(*portable)
		require.Equal(t, linalg.ISA() == linalg.Portable || group%32 != 0, slow)
		got := weights(w, rows, cols)
		require.Equal(t, want, got, name)
		for _, n := range []int{1, 2, 3, 5, 8, 13} {
			x := make([]float32, n*cols)
			for i := range x {
				x[i] = float32(rng.NormFloat64() + 0.5)
			}
			out := make([]float32, n*rows)
			w.mul(out, rows, newActs(t, w.form(), x, n, cols), epilogue{}, 0, rows)
			x = rounded(x, n, cols)
			for tok := range n {
				for r := range rows {
					var sum, mag float64
					for i, a := range x[tok*cols : (tok+1)*cols] {
						p := float64(a) * float64(got[r*cols+i])
						sum, mag = sum+p, mag+math.Abs(p)
					}
					require.InDelta(t, sum, out[tok*rows+r], 2e-6*(mag+10)+1e-6, "%s: token %d row %d", name, tok, r) // as in checkTiled
				}
			}
		}
		src.Quant.Zeros[0] = -9 // no byte with 8 added: rounded anew
		w, err = pack(src, k, group, &scratch{})
		require.NoError(t, err)
		require.NotEqual(t, want, weights(w, rows, cols), name)
		w.free()
	}
	for _, isa := range linalg.ISAs() {
		t.Run(isa.String(), func(t *testing.T) {
			before, err := linalg.ForceISA(isa)
			require.NoError(t, err)
			defer func() { _, _ = linalg.ForceISA(before) }()
			for _, group := range []int{0, 16, 32, 64, 96, 128} {
				for _, shape := range [][2]int{{1, 4}, {33, 36}, {70, 384}, {64, 172}, {16, 64}} {
					check(t, shape[0], shape[1], group)
				}
			}
		})
	}
}

// TestNM24Int4WithoutVBMI: the kernel of other machines with AVX-512.
func TestNM24Int4WithoutVBMI(t *testing.T) {
	k := runtime.Kernel{Op: model.OpLinear, Layout: sparse.LayoutNM24, Weight: sparse.Int4, Act: sparse.Int8}
	withoutVBMI(t, func() {
		for _, group := range []int{32, 64, 128} {
			for _, density := range []float64{0, 0.3, 1} {
				checkTiled(t, rand.New(rand.NewPCG(3, 4)), tileCase{k, group}, 100, 192, density)
			}
		}
	})
}

// TestBitmaskWithoutVBMI2: machines that expand floats but not halves have f16, too.
func TestBitmaskWithoutVBMI2(t *testing.T) {
	k := runtime.Kernel{Op: model.OpLinear, Layout: sparse.LayoutBitmask, Weight: sparse.F16, Act: sparse.F32}
	withoutVBMI2(t, func() {
		kern, _ := tileFor(tileKey{k.Layout, k.Weight, 0})
		require.NotZero(t, kern)
		for _, density := range []float64{0, 0.05, 0.3, 1} {
			checkTiled(t, rand.New(rand.NewPCG(3, 4)), tileCase{k, 0}, 100, 172, density)
		}
		kern, _ = tileFor(tileKey{k.Layout, sparse.Int8, 0})
		require.Zero(t, kern, "vpexpandb is of VBMI2")
	})
}
