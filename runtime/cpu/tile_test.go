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

// eachISA runs f with the kernels of every instruction set of the machine.
func eachISA(t *testing.T, f func(t *testing.T)) {
	for _, isa := range linalg.ISAs() {
		if isa == linalg.Portable {
			continue
		}
		t.Run(isa.String(), func(t *testing.T) {
			before, err := linalg.ForceISA(isa)
			require.NoError(t, err)
			defer func() { _, _ = linalg.ForceISA(before) }()
			f(t)
		})
	}
}

// randomWeight has a share density of nonzeros; 2:4 keeps the rule of its layout.
func randomWeight(rng *rand.Rand, rows, cols int, density float64, layout sparse.Layout) *sparse.Dense {
	f := make([]float32, rows*cols)
	for r := range rows {
		row := f[r*cols : (r+1)*cols]
		for c := range row {
			if rng.Float64() < density {
				row[c] = float32(rng.NormFloat64())
			}
		}
		if layout != sparse.LayoutNM24 {
			continue
		}
		for c := 0; c < cols; c += 4 {
			g := row[c:min(c+4, cols)]
			for n := len(g) - 2; n > 0; n-- { // drop all but two
				g[rng.IntN(len(g))] = 0
			}
			for kept, i := 0, 0; i < len(g); i++ {
				if g[i] != 0 {
					if kept++; kept > 2 {
						g[i] = 0
					}
				}
			}
		}
	}
	return sparse.NewDense(rows, cols, f)
}

// newActs makes activations in form f.
func newActs(t testing.TB, f form, x []float32, rows, cols int) *acts {
	a := &acts{rows: rows, cols: cols, f32: x}
	r, err := alloc(formBytes(f, rows, cols))
	require.NoError(t, err)
	t.Cleanup(r.free)
	for i := range r.bytes() {
		r.bytes()[i] = 0xff // NaN wherever a kernel reads what nobody wrote
	}
	a.mem[f] = r.bytes()
	a.begin(f)
	a.prepare(f, 0, rows)
	return a
}

// weights unpacks a packed form.
func weights(w packed, rows, cols int) []float32 {
	f := make([]float32, rows*cols)
	for r := range rows {
		w.(rowReader).readRow(f[r*cols:(r+1)*cols], r)
	}
	return f
}

// rounded are activations as int8 kernels see them.
func rounded(x []float32, rows, cols int) []float32 {
	out := make([]float32, len(x))
	n := padded(cols)
	q, s := make([]int8, n), make([]float32, n/actGroup)
	for t := range rows {
		quantiseRow(q, s, x[t*cols:(t+1)*cols])
		for c := range cols {
			out[t*cols+c] = float32(q[c]) * s[c/actGroup]
		}
	}
	return out
}

type tileCase struct {
	k     runtime.Kernel
	group int
}

func tileCases() []tileCase {
	var out []tileCase
	for _, l := range []sparse.Layout{sparse.LayoutDense, sparse.LayoutNM24} {
		for _, t := range []sparse.DType{sparse.F32, sparse.F16, sparse.BF16} {
			out = append(out, tileCase{runtime.Kernel{Op: model.OpLinear, Layout: l, Weight: t, Act: sparse.F32}, 0})
		}
		for _, t := range []sparse.DType{sparse.Int8, sparse.Int4} {
			for _, g := range []int{0, 32, 64, 96, 128} {
				out = append(out, tileCase{runtime.Kernel{Op: model.OpLinear, Layout: l, Weight: t, Act: sparse.Int8}, g})
			}
		}
	}
	for _, t := range []sparse.DType{sparse.F32, sparse.F16, sparse.BF16, sparse.Int8, sparse.Int4} {
		k := runtime.Kernel{Op: model.OpLinear, Layout: sparse.LayoutCSR, Weight: t, Act: runtime.ActType(t)}
		if t != sparse.Int4 { // portable only
			out = append(out, tileCase{k, 0})
		}
		k.Layout = sparse.LayoutBitmask
		out = append(out, tileCase{k, 0})
		if t.Quantised() {
			out = append(out, tileCase{k, 32}, tileCase{k, 64}, tileCase{k, 96}, tileCase{k, 128})
		}
	}
	return out
}

// TestTiled holds every tiled kernel to a sum in float64 over its own weights,
// and these to the weights that were packed.
func TestTiled(t *testing.T) {
	eachISA(t, func(t *testing.T) {
		for _, c := range tileCases() {
			t.Run(fmt.Sprintf("%v/g%d", c.k, c.group), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(7, uint64(c.group)))
				for _, shape := range [][2]int{{1, 1}, {7, 33}, {33, 7}, {16, 64}, {64, 172}, {100, 130}, {40, 576}, {7, 300}, {5, 1536}} {
					for _, density := range []float64{0, 0.05, 0.3, 1} {
						checkTiled(t, rng, c, shape[0], shape[1], density)
					}
				}
			})
		}
	})
}

func checkTiled(t *testing.T, rng *rand.Rand, c tileCase, rows, cols int, density float64) {
	src := randomWeight(rng, rows, cols, density, c.k.Layout)
	w, err := packerFor(c.k)(src, c.group, &scratch{})
	require.NoError(t, err)
	defer w.free()
	if p, ok := w.(*portable); ok { // csr narrower than a window, bitmask without AVX-512
		if p.m.Layout() == sparse.LayoutBitmask {
			g, _ := scaleGroup(c.k.Weight, c.group)
			k, _ := tileFor(tileKey{c.k.Layout, c.k.Weight, g})
			require.Zero(t, k)
			return
		}
		require.Equal(t, sparse.LayoutCSR, p.m.Layout())
		return
	}
	name := fmt.Sprintf("[%d %d] density %g", rows, cols, density)
	got := weights(w, rows, cols)
	lim := halfStep(c.k.Weight, src.Values.F32, cols, c.group)
	for i, x := range src.Values.F32 {
		if d := math.Abs(float64(x - got[i])); !(d <= lim(i)) || (x == 0 && got[i] != 0) {
			t.Fatalf("%s: weight %d: want %g, got %g", name, i, x, got[i])
		}
	}
	batches := []int{1, 2, 3, 5, 8, 13, wideRows + 3}
	if c.k.Layout == sparse.LayoutCSR {
		batches = append(batches, 30, 45, 75) // tiles of 2, 3, 4 vectors, and more than one
	}
	for _, n := range batches {
		x := make([]float32, n*cols)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		a := newActs(t, w.form(), x, n, cols)
		if w.form() == formInt8Panels {
			x = rounded(x, n, cols)
		}
		bias := make([]float32, rows)
		for i := range bias {
			bias[i] = float32(rng.NormFloat64())
		}
		ld := rows + 5
		out := make([]float32, n*ld+3)
		for i := range out {
			out[i] = float32(i % 7)
		}
		e := epilogue{bias: [][]float32{nil, bias}[n%2], add: n%4 < 2}
		split := rows / 2 / w.rowBlock() * w.rowBlock()
		w.mul(out[1:], ld, a, e, 0, split)
		w.mul(out[1:], ld, a, e, split, rows)
		for tok := range n {
			for r := range ld {
				at := 1 + tok*ld + r
				if at >= len(out) {
					continue
				}
				old := float32(at % 7)
				if r >= rows {
					require.Equal(t, old, out[at], "%s batch %d: wrote beyond its rows", name, n)
					continue
				}
				var sum, mag float64
				for k := range cols {
					p := float64(got[r*cols+k]) * float64(x[tok*cols+k])
					sum += p
					mag += math.Abs(p)
				}
				if e.add {
					sum += float64(old)
				}
				if e.bias != nil {
					sum += float64(bias[r])
				}
				// One rounding of 2^-24 per addition, at worst all of one sign; sums of a
				// few hundred numbers in several chains stay far below this.
				if tol := 2e-6*(mag+10) + 1e-6; !(math.Abs(float64(out[at])-sum) <= tol) {
					t.Fatalf("%s batch %d: token %d row %d: want %g, got %g (tolerance %g)", name, n, tok, r, sum, out[at], tol)
				}
			}
		}
	}
}

// halfStep gives the largest rounding error of weight i: half a step of its type.
func halfStep(typ sparse.DType, w []float32, cols, group int) func(i int) float64 {
	if group == 0 {
		group = max(1, cols)
	}
	amax := map[[2]int]float64{}
	for i, v := range w {
		k := [2]int{i / cols, i % cols / group}
		amax[k] = max(amax[k], math.Abs(float64(v)))
	}
	return func(i int) float64 {
		a := math.Abs(float64(w[i]))
		g := amax[[2]int{i / cols, i % cols / group}]
		switch typ {
		case sparse.F16:
			return a/2048 + 1e-7
		case sparse.BF16:
			return a / 256
		case sparse.Int8: // a scale in half precision is off by up to 2^-11
			return g/127/2*1.001 + g*5e-4
		case sparse.Int4:
			return g/7/2*1.001 + g*5e-4
		}
		return 0
	}
}

// TestQuantPanels: the codes of panels are those of quantiseRow.
func TestQuantPanels(t *testing.T) {
	eachISA(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 9))
		for _, cols := range []int{1, 63, 64, 172, 576} {
			for _, rows := range []int{1, 2, 3, 7, 13} {
				x := make([]float32, rows*cols)
				for i := range x {
					if rng.IntN(4) > 0 {
						x[i] = float32(rng.NormFloat64() * math.Pow(10, float64(rng.IntN(9)-4)))
					}
				}
				clear(x[:min(64, cols)])
				if rows > 1 {
					for i := range cols { // as small as floats get
						x[cols+i] = math.Float32frombits(uint32(rng.IntN(1000)))
					}
				}
				a := newActs(t, formInt8Panels, x, rows, cols)
				n := padded(cols)
				q, s := make([]int8, n), make([]float32, n/actGroup)
				for tok := range rows {
					quantiseRow(q, s, x[tok*cols:(tok+1)*cols])
					p, w := panelOf(tok, rows, panelTop(formInt8Panels))
					for c, want := range q {
						at := p*n + (c/16*w+tok-p)*16 + c%16
						require.Equal(t, want, a.pq[at], "[%d %d] token %d column %d", rows, cols, tok, c)
					}
					for g, want := range s {
						at := p*n/actGroup + g*w + tok - p
						require.Equal(t, want, a.ps[at], "[%d %d] token %d group %d", rows, cols, tok, g)
						for h := range 2 {
							var sum int32
							for _, c := range q[g*64+h*32:][:32] {
								sum -= int32(c)
							}
							require.Equal(t, sum, a.pu[2*(p*n/actGroup)+(2*g+h)*w+tok-p])
						}
					}
				}
			}
		}
	})
}

func TestTiledRefuses(t *testing.T) {
	eachISA(t, func(t *testing.T) {
		k := runtime.Kernel{Op: model.OpLinear, Layout: sparse.LayoutNM24, Weight: sparse.F16, Act: sparse.F32}
		_, err := packerFor(k)(sparse.NewDense(1, 4, []float32{1, 2, 3, 0}), 0, &scratch{})
		require.ErrorIs(t, err, sparse.ErrPattern)
		k = runtime.Kernel{Op: model.OpLinear, Layout: sparse.LayoutDense, Weight: sparse.Int8, Act: sparse.Int8}
		_, err = packerFor(k)(sparse.NewDense(1, 1, []float32{float32(math.Inf(1))}), 0, &scratch{})
		require.ErrorIs(t, err, sparse.ErrFormat)
		w, err := packerFor(k)(sparse.NewDense(3, 0, nil), 0, &scratch{})
		require.NoError(t, err)
		out := []float32{7, 7, 7}
		w.mul(out, 3, newActs(t, w.form(), nil, 1, 0), epilogue{}, 0, 3)
		require.Equal(t, []float32{0, 0, 0}, out)
	})
}

// TestTiledAllocates nothing per product.
func TestTiledAllocates(t *testing.T) {
	eachISA(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(3, 3))
		for _, c := range tileCases() {
			w, err := packerFor(c.k)(randomWeight(rng, 40, 100, 1, c.k.Layout), c.group, &scratch{})
			require.NoError(t, err)
			a := newActs(t, w.form(), make([]float32, 13*100), 13, 100)
			out := make([]float32, 13*40)
			require.Zero(t, testing.AllocsPerRun(10, func() {
				a.prepare(w.form(), 0, 13)
				w.mul(out, 40, a, epilogue{}, 0, 40)
			}), "%v", c.k)
			w.free()
		}
	})
}

// TestWeightMemory: weights share slabs, large ones do not, all are given back.
func TestWeightMemory(t *testing.T) {
	slabs.open = nil // what other tests left
	var ms []*weightMemory
	for i := range 60 {
		m, err := allocWeight(1<<20 + i)
		require.NoError(t, err)
		require.Len(t, m.bytes(), 1<<20+i)
		for k := range m.bytes() {
			if m.bytes()[k] != 0 {
				t.Fatalf("byte %d of weight %d is not zero", k, i)
			}
			m.bytes()[k] = byte(i)
		}
		ms = append(ms, m)
	}
	for i, m := range ms {
		require.EqualValues(t, i, m.bytes()[0])
		require.EqualValues(t, i, m.bytes()[1<<20+i-1])
	}
	first := ms[0].slab
	for _, m := range ms {
		m.free()
		m.free() // twice does nothing
	}
	require.Zero(t, first.live)
	require.Nil(t, first.r.base)
	m, err := allocWeight(slabLimit + 1)
	require.NoError(t, err)
	require.Nil(t, m.slab)
	m.free()
	require.Nil(t, m.own.base)
}
