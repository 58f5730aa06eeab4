package ptxsim

import (
	"math"
	"testing"

	"github.com/x448/float16"
)

func TestConversions(t *testing.T) {
	clamp := func(x float64, lo, hi int64) uint64 {
		switch {
		case x != x:
			return 0
		case x <= float64(lo):
			return uint64(lo)
		case x >= float64(hi):
			return uint64(hi)
		}
		return uint64(int64(x))
	}
	h := func(b uint64) float32 { return float16.Frombits(uint16(b)).Float32() }
	toHalf := func(b uint64) uint64 {
		if f32(b) != f32(b) {
			return 0x7fff
		}
		return uint64(float16.Fromfloat32(f32(b)).Bits())
	}
	toBF := func(b uint64) uint64 {
		if f32(b) != f32(b) {
			return 0x7fff
		}
		x := uint32(b)
		return uint64((x + 0x7fff + x>>16&1) >> 16)
	}
	e4m3 := func(b uint64) uint64 { // nearest by search, ties to the even code
		x := float64(f32(b))
		if x != x {
			return 0x7f
		}
		best, dist := uint64(0), math.Inf(1)
		for c := uint64(0); c < 0x7f; c++ {
			d := math.Abs(math.Abs(x) - decodeFloat(c, tE4M3))
			if d < dist || d == dist && c&1 == 0 {
				best, dist = c, d
			}
		}
		if math.Abs(x) > 448 {
			best = 0x7e
		}
		if math.Signbit(x) {
			best |= 0x80
		}
		return best
	}
	runCases(t, []opCase{
		{"b64 b32", "cvt.u64.u32 d, a;", func(a, _, _ uint64) uint64 { return a }},
		{"b64 b32", "cvt.s64.s32 d, a;", func(a, _, _ uint64) uint64 { return uint64(int64(int32(a))) }},
		{"b32 b64", "cvt.u32.u64 d, a;", func(a, _, _ uint64) uint64 { return a }},
		{"b16 b32", "cvt.u16.u32 d, a;", func(a, _, _ uint64) uint64 { return a }},
		{"b32 b32", "cvt.s32.s8 d, a;", func(a, _, _ uint64) uint64 { return uint64(int64(int8(a))) }},
		{"b32 b32", "cvt.u32.u8 d, a;", func(a, _, _ uint64) uint64 { return a & 0xff }},
		{"b32 b16", "cvt.s32.s16 d, a;", func(a, _, _ uint64) uint64 { return uint64(int64(int16(a))) }},
		{"b32 b32", "cvt.s8.s32 d, a;", func(a, _, _ uint64) uint64 { return uint64(int64(int8(a))) }},
		{"b32 b32", "cvt.sat.s8.s32 d, a;", func(a, _, _ uint64) uint64 { return uint64(max(-128, min(127, int64(int32(a))))) }},
		{"b32 b32", "cvt.sat.u8.s32 d, a;", func(a, _, _ uint64) uint64 { return uint64(max(0, min(255, int64(int32(a))))) }},
		{"b32 b32", "cvt.sat.s8.u32 d, a;", func(a, _, _ uint64) uint64 { return min(127, a) }},
		{"b32 b32 b32 b32", "cvt.pack.sat.s8.s32.b32 d, a, b, c;", func(a, b, c uint64) uint64 {
			s := func(x uint64) uint64 { return uint64(max(-128, min(127, int64(int32(x))))) & 0xff }
			return c<<16 | s(a)<<8 | s(b)
		}},
		{"f32 b32", "cvt.rn.f32.s32 d, a;", func(a, _, _ uint64) uint64 { return bits32(float32(int32(a))) }},
		{"f32 b32", "cvt.rn.f32.u32 d, a;", func(a, _, _ uint64) uint64 { return bits32(float32(uint32(a))) }},
		{"f32 b64", "cvt.rn.f32.s64 d, a;", func(a, _, _ uint64) uint64 { return bits32(float32(int64(a))) }},
		{"f32 b64", "cvt.rn.f32.u64 d, a;", func(a, _, _ uint64) uint64 { return bits32(float32(a)) }},
		{"f64 b64", "cvt.rn.f64.s64 d, a;", func(a, _, _ uint64) uint64 { return math.Float64bits(float64(int64(a))) }},
		{"f32 b32", "cvt.rz.f32.s32 d, a;", func(a, _, _ uint64) uint64 {
			return uint64(math.Float32bits(float32(roundBig(exact(float64(int32(a))), 23, -126, 127, bigModes["rz"]))))
		}},
		{"f32 b16", "cvt.rn.f32.s16 d, a;", func(a, _, _ uint64) uint64 { return bits32(float32(int16(a))) }},
		{"b32 f32", "cvt.rni.s32.f32 d, a;", func(a, _, _ uint64) uint64 {
			return clamp(math.RoundToEven(float64(f32(a))), math.MinInt32, math.MaxInt32)
		}},
		{"b32 f32", "cvt.rzi.s32.f32 d, a;", func(a, _, _ uint64) uint64 {
			return clamp(math.Trunc(float64(f32(a))), math.MinInt32, math.MaxInt32)
		}},
		{"b32 f32", "cvt.rmi.s32.f32 d, a;", func(a, _, _ uint64) uint64 {
			return clamp(math.Floor(float64(f32(a))), math.MinInt32, math.MaxInt32)
		}},
		{"b32 f32", "cvt.rpi.s32.f32 d, a;", func(a, _, _ uint64) uint64 {
			return clamp(math.Ceil(float64(f32(a))), math.MinInt32, math.MaxInt32)
		}},
		{"b32 f32", "cvt.rzi.u32.f32 d, a;", func(a, _, _ uint64) uint64 { return clamp(math.Trunc(float64(f32(a))), 0, math.MaxUint32) }},
		{"b32 f32", "cvt.rni.sat.s8.f32 d, a;", func(a, _, _ uint64) uint64 { return clamp(math.RoundToEven(float64(f32(a))), -128, 127) }},
		{"f32 f32", "cvt.rni.f32.f32 d, a;", func(a, _, _ uint64) uint64 { return bits32(float32(math.RoundToEven(float64(f32(a))))) }},
		{"f32 f32", "cvt.rmi.f32.f32 d, a;", func(a, _, _ uint64) uint64 { return bits32(float32(math.Floor(float64(f32(a))))) }},
		{"f32 f32", "cvt.sat.f32.f32 d, a;", func(a, _, _ uint64) uint64 {
			if x := f32(a); x > 0 {
				return bits32(min(x, 1))
			}
			return 0
		}},
		{"f32 f16", "cvt.f32.f16 d, a;", func(a, _, _ uint64) uint64 { return bits32(h(a)) }},
		{"f32 b16", "cvt.f32.bf16 d, a;", func(a, _, _ uint64) uint64 { return bits32(math.Float32frombits(uint32(a) << 16)) }},
		{"f16 f32", "cvt.rn.f16.f32 d, a;", func(a, _, _ uint64) uint64 { return toHalf(a) }},
		{"b16 f32", "cvt.rn.bf16.f32 d, a;", func(a, _, _ uint64) uint64 { return toBF(a) }},
		{"b16 f32", "cvt.rz.bf16.f32 d, a;", func(a, _, _ uint64) uint64 {
			if f32(a) != f32(a) {
				return 0x7fff
			}
			return a >> 16
		}},
		{"b32 f32", "cvt.rna.tf32.f32 d, a;", func(a, _, _ uint64) uint64 {
			if f32(a) != f32(a) {
				return 0x7fffe000
			}
			if a&0x7fffffff == 0x7f800000 {
				return a
			}
			return (a + 0x1000) &^ 0x1fff
		}},
		{"b32 f32 f32", "cvt.rn.f16x2.f32 d, a, b;", func(a, b, _ uint64) uint64 { return toHalf(a)<<16 | toHalf(b) }},
		{"b32 f32 f32", "cvt.rn.bf16x2.f32 d, a, b;", func(a, b, _ uint64) uint64 { return toBF(a)<<16 | toBF(b) }},
		{"b32 f32 f32", "cvt.rn.relu.f16x2.f32 d, a, b;", func(a, b, _ uint64) uint64 {
			r := func(x uint64) uint64 {
				if !(f32(x) > 0) && f32(x) != 0 {
					return 0
				}
				return toHalf(x)
			}
			return r(a)<<16 | r(b)
		}},
		{"b16 f32 f32", "cvt.rn.satfinite.e4m3x2.f32 d, a, b;", func(a, b, _ uint64) uint64 { return e4m3(a)<<8 | e4m3(b) }},
		{"b32 b16", "cvt.rn.f16x2.e4m3x2 d, a;", func(a, _, _ uint64) uint64 {
			r := func(x uint64) uint64 {
				v := decodeFloat(x&0xff, tE4M3)
				if v != v {
					return 0x7fff
				}
				return uint64(float16.Fromfloat32(float32(v)).Bits())
			}
			return r(a>>8)<<16 | r(a)
		}},
		{"f64 f32", "cvt.f64.f32 d, a;", func(a, _, _ uint64) uint64 {
			v := float64(math.Float32frombits(uint32(a)))
			return math.Float64bits(v)
		}},
		{"f32 f64", "cvt.rn.f32.f64 d, a;", func(a, _, _ uint64) uint64 { return bits32(float32(math.Float64frombits(a))) }},
	})
}
