package ptxsim

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// ptxHead starts every PTX text of these tests.
const ptxHead = ".version 9.5\n.target sm_89\n.address_size 64\n"

// opKernel wraps instructions that compute d from a, b and c. Operands lie in
// cells of 8 bytes; types are those of the registers.
func opKernel(types [4]string, code string) string {
	var s strings.Builder
	s.WriteString(ptxHead + ".visible .entry k(.param .u64 pd, .param .u64 pa, .param .u64 pb, .param .u64 pc) {\n" +
		".reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .pred %p<9>; .reg .b16 %h<9>;\n")
	for i, n := range []string{"d", "a", "b", "c"} {
		if types[i] != "" {
			fmt.Fprintf(&s, ".reg .%s %s;\n", types[i], n)
		}
	}
	s.WriteString("mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mad.lo.s32 %r1, %r2, %r3, %r1; mul.wide.u32 %rd1, %r1, 8;\n")
	for i, n := range []string{"a", "b", "c"} {
		t := types[i+1]
		if t == "" {
			continue
		}
		fmt.Fprintf(&s, "ld.param.u64 %%rd2, [p%s]; add.s64 %%rd2, %%rd2, %%rd1;\n", n)
		if t == "pred" {
			fmt.Fprintf(&s, "ld.global.u32 %%r4, [%%rd2]; and.b32 %%r4, %%r4, 1; setp.ne.u32 %s, %%r4, 0;\n", n)
		} else {
			fmt.Fprintf(&s, "ld.global.%s %s, [%%rd2];\n", t, n)
		}
	}
	s.WriteString(code + "\nld.param.u64 %rd2, [pd]; add.s64 %rd2, %rd2, %rd1;\n")
	if types[0] == "pred" {
		s.WriteString("selp.b32 %r4, 1, 0, d; st.global.u32 [%rd2], %r4;\n")
	} else {
		fmt.Fprintf(&s, "st.global.%s [%%rd2], d;\n", types[0])
	}
	s.WriteString("ret;\n}\n")
	return s.String()
}

// put64 and get64 move cells of 8 bytes to and from a device.
func put64(t testing.TB, d *Device, v []uint64) Ptr {
	t.Helper()
	p, err := d.Alloc(int64(8 * len(v)))
	require.NoError(t, err)
	b := make([]byte, 8*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint64(b[8*i:], x)
	}
	require.NoError(t, d.HtoD(p, b))
	return p
}

func get64(t testing.TB, d *Device, p Ptr, n int) []uint64 {
	t.Helper()
	b := make([]byte, 8*n)
	require.NoError(t, d.DtoH(b, p))
	out := make([]uint64, n)
	for i := range out {
		out[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return out
}

// runOp executes an opKernel over triples of inputs.
func runOp(t testing.TB, types [4]string, code string, a, b, c []uint64) []uint64 {
	t.Helper()
	d := NewDevice(Config{})
	m, err := d.Load(opKernel(types, code))
	require.NoError(t, err, code)
	k, err := m.Kernel("k")
	require.NoError(t, err)
	out := put64(t, d, make([]uint64, len(a)))
	require.NoError(t, d.Launch(k, Dim3{X: len(a) / 32}, Dim3{X: 32}, 0, out, put64(t, d, a), put64(t, d, b), put64(t, d, c)), code)
	return get64(t, d, out, len(a))
}

// edges are bit patterns that are interesting as integers or floats.
func edges(typ string) []uint64 {
	switch typ {
	case "b16", "u16", "s16", "f16", "bf16":
		return []uint64{0, 1, 2, 3, 7, 15, 16, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0x8001, 0xffff, 0x3c00, 0xbc00,
			0x3f80, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00, 0x0400, 0x03ff, 0x3555, 0x7f80, 0x0080, 0x007f}
	case "b64", "u64", "s64", "f64":
		return []uint64{0, 1, 2, 3, 31, 32, 33, 63, 64, 0x7fffffff, 0x80000000, 0xffffffff, 1 << 62, 1<<63 - 1, 1 << 63, 1<<63 + 1,
			^uint64(0), ^uint64(1), 0x0123456789abcdef, math.Float64bits(1), math.Float64bits(-2.5), math.Float64bits(math.Pi),
			math.Float64bits(math.Inf(1)), math.Float64bits(1e300), 0x7ff8000000000000}
	case "pred":
		return []uint64{0, 1}
	}
	f := func(x float32) uint64 { return uint64(math.Float32bits(x)) }
	return []uint64{0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 33, 64, 127, 128, 255, 256, 0x7fff, 0x8000, 0xffff, 0x10000,
		0x7fffffff, 0x80000000, 0x80000001, 0xffffffff, 0xfffffffe, 0x01234567, 0x89abcdef, 0x00ff00ff, 0x3c003c00,
		f(1), f(-1), f(0.5), f(-2.5), f(3.5), f(0.1), f(1e10), f(-1e10), f(3e38), f(-3e38), f(1e-38), f(1e-45), f(-1e-40),
		f(float32(math.Inf(1))), f(float32(math.Inf(-1))), 0x7fc00000, f(65504), f(65520), f(448), f(464), f(6e-8), f(2147483648)}
}

// inputs makes n triples: edge values crossed, then random bits.
func inputs(types [4]string, n int, seed uint64) (out [3][]uint64) {
	r := rand.New(rand.NewPCG(seed, 7))
	for k := range out {
		e := edges(types[k+1])
		for i := 0; i < n; i++ {
			v := r.Uint64()
			if i < n*3/4 {
				v = e[r.IntN(len(e))]
			}
			switch types[k+1] {
			case "b16", "u16", "s16", "f16", "bf16":
				v &= 0xffff
			case "b64", "u64", "s64", "f64":
			case "pred":
				v &= 1
			default:
				v &= 0xffffffff
			}
			out[k] = append(out[k], v)
		}
	}
	return
}

// opCase checks one instruction against Go.
type opCase struct {
	types string // register types of d a b c, blank-separated; "-" for none
	code  string
	want  func(a, b, c uint64) uint64
}

func runCases(t *testing.T, cases []opCase) {
	t.Helper()
	for i, c := range cases {
		t.Run(strings.Fields(c.code)[0]+fmt.Sprint(i), func(t *testing.T) {
			var types [4]string
			for k, s := range strings.Fields(c.types) {
				if s != "-" {
					types[k] = s
				}
			}
			const n = 1024
			in := inputs(types, n, uint64(i))
			got := runOp(t, types, c.code, in[0], in[1], in[2])
			mask := ^uint64(0)
			switch types[0] {
			case "b16", "f16":
				mask = 0xffff
			case "b64", "f64", "u64", "s64":
			default:
				mask = 0xffffffff
			}
			for j := range got {
				want := c.want(in[0][j], in[1][j], in[2][j]) & mask
				if got[j]&mask != want {
					t.Fatalf("%s\na=%#x b=%#x c=%#x: got %#x, want %#x", c.code, in[0][j], in[1][j], in[2][j], got[j]&mask, want)
				}
			}
		})
	}
}
