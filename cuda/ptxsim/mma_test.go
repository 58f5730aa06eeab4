package ptxsim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// warpKernel loads n[i] words per lane of each operand, runs code on registers
// d0.. a0.. b0.. c0.. e0.. and stores the d's.
func warpKernel(counts map[string]int, code string) string {
	var s strings.Builder
	s.WriteString(ptxHead + ".visible .entry k(.param .u64 pd, .param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u64 pe) {\n" +
		".reg .b32 %r<4>; .reg .b64 %rd<4>;\nmov.u32 %r1, %tid.x;\n")
	for _, n := range []string{"d", "a", "b", "c", "e"} {
		for i := 0; i < counts[n]; i++ {
			fmt.Fprintf(&s, ".reg .b32 %s%d;\n", n, i)
		}
	}
	for _, n := range []string{"a", "b", "c", "e"} {
		if counts[n] == 0 {
			continue
		}
		fmt.Fprintf(&s, "ld.param.u64 %%rd1, [p%s]; mul.wide.u32 %%rd2, %%r1, %d; add.s64 %%rd1, %%rd1, %%rd2;\n", n, 4*counts[n])
		for i := 0; i < counts[n]; i++ {
			fmt.Fprintf(&s, "ld.global.b32 %s%d, [%%rd1+%d];\n", n, i, 4*i)
		}
	}
	s.WriteString(code + "\n")
	fmt.Fprintf(&s, "ld.param.u64 %%rd1, [pd]; mul.wide.u32 %%rd2, %%r1, %d; add.s64 %%rd1, %%rd1, %%rd2;\n", 4*counts["d"])
	for i := 0; i < counts["d"]; i++ {
		fmt.Fprintf(&s, "st.global.b32 [%%rd1+%d], d%d;\n", 4*i, i)
	}
	s.WriteString("ret;\n}\n")
	return s.String()
}

// frag is one operand of a whole warp: frag[lane][register].
type frag [32][]uint32

func newFrag(n int) (f frag) {
	for l := range f {
		f[l] = make([]uint32, n)
	}
	return
}

func (f *frag) words() []uint64 { // packed two by two into put64's cells
	n := len(f[0])
	w := make([]uint64, 16*n)
	for l := range f {
		for r, v := range f[l] {
			i := l*n + r
			w[i/2] |= uint64(v) << (32 * (i & 1))
		}
	}
	return w
}

// runWarp executes code on one warp.
func runWarp(t testing.TB, code string, nd int, a, b, c, e frag) (frag, error) {
	t.Helper()
	dev := NewDevice(Config{})
	m, err := dev.Load(warpKernel(map[string]int{"d": nd, "a": len(a[0]), "b": len(b[0]), "c": len(c[0]), "e": len(e[0])}, code))
	require.NoError(t, err)
	k, err := m.Kernel("k")
	require.NoError(t, err)
	args := []any{put64(t, dev, make([]uint64, 16*nd))}
	for _, f := range []*frag{&a, &b, &c, &e} {
		if len(f[0]) == 0 {
			args = append(args, Ptr(0))
		} else {
			args = append(args, put64(t, dev, f.words()))
		}
	}
	d := newFrag(nd)
	if err := dev.Launch(k, Dim3{}, Dim3{X: 32}, 0, args...); err != nil {
		return d, err
	}
	out := get64(t, dev, args[0].(Ptr), 16*nd)
	for l := range d {
		for r := range d[l] {
			i := l*nd + r
			d[l][r] = uint32(out[i/2] >> (32 * (i & 1)))
		}
	}
	return d, nil
}

// vecOf writes {x0, x1, ...}.
func vecOf(name string, n int) string {
	var l []string
	for i := 0; i < n; i++ {
		l = append(l, fmt.Sprint(name, i))
	}
	return "{" + strings.Join(l, ",") + "}"
}

// The places of matrix elements, written from element to lane (the simulator
// goes the other way): PTX ISA 9.7.14, figures of mma.m16n8k*.
type place struct{ lane, reg, sub int }

func placeA(size, r, c int) place {
	switch size {
	case 2:
		return place{r%8*4 + c%8/2, r/8 + c/8*2, c % 2}
	case 1:
		return place{r%8*4 + c%16/4, r/8 + c/16*2, c % 4}
	}
	return place{r%8*4 + c%4, r/8 + c/4*2, 0}
}

func placeB(size, k, n int) place {
	switch size {
	case 2:
		return place{n*4 + k%8/2, k / 8, k % 2}
	case 1:
		return place{n*4 + k%16/4, k / 16, k % 4}
	}
	return place{n*4 + k%4, k / 4, 0}
}

func (f *frag) put(p place, size int, v uint64) {
	f[p.lane][p.reg] |= uint32(v&sizeMask([]dtype{0, tB8, tB16, 0, tB32}[size])) << (8 * size * p.sub)
}

// mmaCase is one instruction and the types of its operands.
type mmaCase struct {
	op             string
	k              int
	dt, at, bt, ct dtype
	sparse         bool
	sel            int
}

// encodeSmall encodes a small integer exactly.
func encodeSmall(v int, t dtype) uint64 {
	if t.integer() {
		return uint64(v)
	}
	return encodeFloat(float64(v), t, roundNearest, false)
}

// metaPlace is where the metadata nibble of row r, group q stands: cuda.md
// section 5, from the row's side.
func metaPlace(c mmaCase, r, q int) (lane, bit int) {
	lane = 4 * (r % 8)
	switch {
	case c.at.size() == 1:
		return lane + r/8 + q/8*2, q % 8 * 4
	case c.k == 32:
		return lane + 2*c.sel + q/4, r/8*16 + q%4*4
	}
	return lane + c.sel, r/8*16 + q*4
}

func (c mmaCase) run(t *testing.T, r *rand.Rand) {
	sa, accRegs := c.at.size(), 4
	if c.dt == tF16 {
		accRegs = 2
	}
	kc := c.k
	if c.sparse {
		kc = c.k / 2
	}
	a, b := newFrag(16*kc*sa/128), newFrag(8*c.k*sa/128)
	acc, e := newFrag(accRegs), frag{}
	small := func(t dtype) int {
		if t == tU8 {
			return r.IntN(256)
		}
		if t == tS8 {
			return r.IntN(256) - 128
		}
		return r.IntN(17) - 8
	}
	var A, B [64][64]int
	for n := 0; n < 8; n++ {
		for k := 0; k < c.k; k++ {
			B[k][n] = small(c.bt)
			b.put(placeB(sa, k, n), sa, encodeSmall(B[k][n], c.bt))
		}
	}
	if c.sparse {
		e = newFrag(1)
		for l := range e { // lanes that nobody selects keep illegal nibbles
			e[l][0] = 0x50505050
		}
		written := map[int]bool{}
		for row := 0; row < 16; row++ {
			for q := 0; q < kc/2; q++ {
				lo := r.IntN(3)
				hi := lo + 1 + r.IntN(3-lo)
				for j, col := range []int{lo, hi} {
					v := small(c.at)
					A[row][4*q+col] = v
					a.put(placeA(sa, row, 2*q+j), sa, encodeSmall(v, c.at))
				}
				lane, bit := metaPlace(c, row, q)
				if !written[lane] {
					written[lane], e[lane][0] = true, 0
				}
				e[lane][0] |= uint32(lo|hi<<2) << bit
			}
		}
	} else {
		for row := 0; row < 16; row++ {
			for k := 0; k < c.k; k++ {
				A[row][k] = small(c.at)
				a.put(placeA(sa, row, k), sa, encodeSmall(A[row][k], c.at))
			}
		}
	}
	var want [16][8]int
	for row := range want {
		for n := range want[row] {
			v := r.IntN(100) - 50
			want[row][n] = v
			lane := row%8*4 + n/2
			if c.dt == tF16 {
				acc[lane][row/8] |= uint32(encodeSmall(v, tF16)) << (16 * (n % 2))
			} else {
				acc[lane][row/8*2+n%2] = uint32(encodeSmall(v, c.ct))
			}
			for k := 0; k < c.k; k++ {
				want[row][n] += A[row][k] * B[k][n]
			}
		}
	}
	code := fmt.Sprintf("%s %s, %s, %s, %s", c.op, vecOf("d", accRegs), vecOf("a", len(a[0])), vecOf("b", len(b[0])), vecOf("c", accRegs))
	if c.sparse {
		code += fmt.Sprintf(", e0, %#x", c.sel)
	}
	d, err := runWarp(t, code+";", accRegs, a, b, acc, e)
	require.NoError(t, err, c.op)
	for row := range want {
		for n, w := range want[row] {
			lane := row%8*4 + n/2
			var got, exp uint64
			if c.dt == tF16 {
				got = uint64(d[lane][row/8] >> (16 * (n % 2)) & 0xffff)
				exp = encodeFloat(float64(w), tF16, roundNearest, false)
			} else {
				got = uint64(d[lane][row/8*2+n%2])
				exp = encodeSmall(w, c.dt) & 0xffffffff
			}
			require.Equal(t, exp, got, "%s row %d column %d", c.op, row, n)
		}
	}
}

func TestMma(t *testing.T) {
	const dense, sp = "mma.sync.aligned.", "mma.sp::ordered_metadata.sync.aligned."
	cases := []mmaCase{
		{dense + "m16n8k16.row.col.f32.f16.f16.f32", 16, tF32, tF16, tF16, tF32, false, 0},
		{dense + "m16n8k16.row.col.f32.bf16.bf16.f32", 16, tF32, tBF16, tBF16, tF32, false, 0},
		{dense + "m16n8k16.row.col.f16.f16.f16.f16", 16, tF16, tF16, tF16, tF16, false, 0},
		{dense + "m16n8k8.row.col.f32.f16.f16.f32", 8, tF32, tF16, tF16, tF32, false, 0},
		{dense + "m16n8k8.row.col.f32.bf16.bf16.f32", 8, tF32, tBF16, tBF16, tF32, false, 0},
		{dense + "m16n8k8.row.col.f32.tf32.tf32.f32", 8, tF32, tTF32, tTF32, tF32, false, 0},
		{dense + "m16n8k4.row.col.f32.tf32.tf32.f32", 4, tF32, tTF32, tTF32, tF32, false, 0},
		{dense + "m16n8k32.row.col.s32.s8.s8.s32", 32, tS32, tS8, tS8, tS32, false, 0},
		{dense + "m16n8k32.row.col.s32.u8.s8.s32", 32, tS32, tU8, tS8, tS32, false, 0},
		{dense + "m16n8k16.row.col.s32.s8.s8.s32", 16, tS32, tS8, tS8, tS32, false, 0},
		{dense + "m16n8k32.row.col.f32.e4m3.e4m3.f32", 32, tF32, tE4M3, tE4M3, tF32, false, 0},
		{dense + "m16n8k32.row.col.f32.e5m2.e4m3.f32", 32, tF32, tE5M2, tE4M3, tF32, false, 0},
		{sp + "m16n8k32.row.col.f32.f16.f16.f32", 32, tF32, tF16, tF16, tF32, true, 0},
		{sp + "m16n8k32.row.col.f32.f16.f16.f32", 32, tF32, tF16, tF16, tF32, true, 1},
		{sp + "m16n8k32.row.col.f32.bf16.bf16.f32", 32, tF32, tBF16, tBF16, tF32, true, 1},
		{sp + "m16n8k32.row.col.f16.f16.f16.f16", 32, tF16, tF16, tF16, tF16, true, 0},
		{sp + "m16n8k16.row.col.f32.f16.f16.f32", 16, tF32, tF16, tF16, tF32, true, 0},
		{sp + "m16n8k16.row.col.f32.f16.f16.f32", 16, tF32, tF16, tF16, tF32, true, 3},
		{sp + "m16n8k64.row.col.s32.s8.s8.s32", 64, tS32, tS8, tS8, tS32, true, 0},
		{sp + "m16n8k64.row.col.s32.u8.u8.s32", 64, tS32, tU8, tU8, tS32, true, 0},
		{sp + "m16n8k64.row.col.f32.e4m3.e4m3.f32", 64, tF32, tE4M3, tE4M3, tF32, true, 0},
		{sp + "m16n8k64.row.col.f32.e5m2.e5m2.f32", 64, tF32, tE5M2, tE5M2, tF32, true, 0},
		{"mma.sp.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32", 32, tF32, tF16, tF16, tF32, true, 1},
	}
	for i, c := range cases {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			for seed := uint64(0); seed < 4; seed++ {
				c.run(t, rand.New(rand.NewPCG(seed, uint64(i))))
			}
		})
	}
}

// TestMmaSpGolden is the public vector of LLVM's MLIR integration test
// sm80 "mma_sp_sync_f16_16832": compressed A[i][j] = i+j+1, metadata 0x8888
// (columns 0 and 2 of each group), B[k][n] = n-k.
func TestMmaSpGolden(t *testing.T) {
	a, b, c, e := newFrag(4), newFrag(4), newFrag(2), newFrag(1)
	for i := 0; i < 16; i++ {
		for j := 0; j < 16; j++ {
			a.put(placeA(2, i, j), 2, encodeSmall(i+j+1, tF16))
		}
	}
	for k := 0; k < 32; k++ {
		for n := 0; n < 8; n++ {
			b.put(placeB(2, k, n), 2, encodeSmall(n-k, tF16))
		}
	}
	for l := range e {
		e[l][0] = 0x88888888
	}
	d, err := runWarp(t, "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f16.f16.f16.f16 {d0,d1},{a0,a1,a2,a3},{b0,b1,b2,b3},{c0,c1},e0,0x0;", 2, a, b, c, e)
	require.NoError(t, err)
	at := func(row, n int) float32 {
		return halfToFloat(d[row%8*4+n/2][row/8] >> (16 * (n % 2)) & 0xffff)
	}
	for n, want := range []float32{-2720, -2584, -2448, -2312, -2176, -2040, -1904, -1768} {
		require.Equal(t, want, at(0, n))
	}
	require.Equal(t, float32(-6320), at(15, 0))
	require.Equal(t, float32(-3688), at(15, 7))
}

func TestMmaSpIllegalMetadata(t *testing.T) {
	const op = ".sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {d0,d1,d2,d3},{a0,a1,a2,a3},{b0,b1,b2,b3},{c0,c1,c2,c3},e0,0;"
	for nib := uint32(0); nib < 16; nib++ {
		e := newFrag(1)
		for l := range e {
			e[l][0] = 0x44444444
		}
		e[9][0] = 0x44444444&^0xf00 | nib<<8
		_, err := runWarp(t, "mma.sp::ordered_metadata"+op, 4, newFrag(4), newFrag(4), newFrag(4), e)
		_, plain := runWarp(t, "mma.sp"+op, 4, newFrag(4), newFrag(4), newFrag(4), e)
		switch nib {
		case 4, 8, 9, 12, 13, 14:
			require.NoError(t, err, "%#x", nib)
			require.NoError(t, plain, "%#x", nib)
			continue
		case 0, 5, 10, 15:
			requireFault(t, plain, KindMetadata)
		default: // descending: only without ordered_metadata
			require.NoError(t, plain, "%#x", nib)
		}
		f := requireFault(t, err, KindMetadata)
		require.Equal(t, 9, f.Thread.X)
		require.Equal(t, ErrIllegalInstruction, ResultOf(err))
	}
}

// requireFault checks the kind of a fault and gives it.
func requireFault(t *testing.T, err error, kind FaultKind) *Fault {
	t.Helper()
	var f *Fault
	require.ErrorAs(t, err, &f)
	require.Equal(t, kind, f.Kind, "%v", err)
	return f
}

func TestMmaIntegerSaturation(t *testing.T) {
	a, b, c := newFrag(4), newFrag(2), newFrag(4)
	for l := range c {
		for r := range c[l] {
			c[l][r] = math.MaxInt32 - 5
		}
		a[l][0], a[l][1], a[l][2], a[l][3] = 0x01010101, 0x01010101, 0x01010101, 0x01010101
		b[l][0], b[l][1] = 0x01010101, 0x01010101
	}
	const op = "mma.sync.aligned.m16n8k32.row.col%s.s32.s8.s8.s32 {d0,d1,d2,d3},{a0,a1,a2,a3},{b0,b1},{c0,c1,c2,c3};"
	d, err := runWarp(t, fmt.Sprintf(op, ""), 4, a, b, c, frag{})
	require.NoError(t, err)
	require.Equal(t, uint32(0x80000000+26), d[5][2], "wraps")
	d, err = runWarp(t, fmt.Sprintf(op, ".satfinite"), 4, a, b, c, frag{})
	require.NoError(t, err)
	require.Equal(t, uint32(math.MaxInt32), d[5][2])
}
