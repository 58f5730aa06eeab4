package ptxsim

import (
	"math/big"
	"math/bits"
	"testing"
)

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// bigMul is the exact product of two values, as an independent oracle of mul.hi.
func bigMul(x, y *big.Int, shift uint) uint64 {
	p := new(big.Int).Mul(x, y)
	p.Rsh(p, shift) // floor, as an arithmetic shift
	return new(big.Int).And(p, new(big.Int).SetUint64(^uint64(0))).Uint64()
}

func TestIntegerOps(t *testing.T) {
	s32 := func(x uint64) int64 { return int64(int32(x)) }
	runCases(t, []opCase{
		{"b32 b32 b32", "add.s32 d, a, b;", func(a, b, _ uint64) uint64 { return a + b }},
		{"b32 b32", "add.s32 d, a, -7;", func(a, _, _ uint64) uint64 { return a - 7 }},
		{"b32 b32 b32", "sub.u32 d, a, b;", func(a, b, _ uint64) uint64 { return a - b }},
		{"b64 b64 b64", "add.u64 d, a, b;", func(a, b, _ uint64) uint64 { return a + b }},
		{"b64 b64 b64", "sub.s64 d, a, b;", func(a, b, _ uint64) uint64 { return a - b }},
		{"b16 b16 b16", "add.s16 d, a, b;", func(a, b, _ uint64) uint64 { return a + b }},
		{"b16 b16 b16", "sub.s16 d, a, b;", func(a, b, _ uint64) uint64 { return a - b }},
		{"b32 b32 b32", "add.sat.s32 d, a, b;", func(a, b, _ uint64) uint64 {
			return uint64(max(-1<<31, min(1<<31-1, s32(a)+s32(b))))
		}},
		{"b32 b32 b32", "sub.sat.s32 d, a, b;", func(a, b, _ uint64) uint64 {
			return uint64(max(-1<<31, min(1<<31-1, s32(a)-s32(b))))
		}},
		{"b32 b32 b32", "mul.lo.s32 d, a, b;", func(a, b, _ uint64) uint64 { return a * b }},
		{"b32 b32 b32", "mul.hi.s32 d, a, b;", func(a, b, _ uint64) uint64 {
			return bigMul(big.NewInt(s32(a)), big.NewInt(s32(b)), 32)
		}},
		{"b32 b32 b32", "mul.hi.u32 d, a, b;", func(a, b, _ uint64) uint64 { return a * b >> 32 }},
		{"b64 b64 b64", "mul.hi.s64 d, a, b;", func(a, b, _ uint64) uint64 {
			return bigMul(big.NewInt(int64(a)), big.NewInt(int64(b)), 64)
		}},
		{"b64 b64 b64", "mul.hi.u64 d, a, b;", func(a, b, _ uint64) uint64 {
			return bigMul(new(big.Int).SetUint64(a), new(big.Int).SetUint64(b), 64)
		}},
		{"b64 b64 b64", "mul.lo.s64 d, a, b;", func(a, b, _ uint64) uint64 { return a * b }},
		{"b64 b32 b32", "mul.wide.s32 d, a, b;", func(a, b, _ uint64) uint64 { return uint64(s32(a) * s32(b)) }},
		{"b64 b32 b32", "mul.wide.u32 d, a, b;", func(a, b, _ uint64) uint64 { return a * b }},
		{"b32 b16 b16", "mul.wide.s16 d, a, b;", func(a, b, _ uint64) uint64 { return uint64(int64(int16(a)) * int64(int16(b))) }},
		{"b32 b32 b32 b32", "mad.lo.s32 d, a, b, c;", func(a, b, c uint64) uint64 { return a*b + c }},
		{"b32 b32 b32 b32", "mad.hi.u32 d, a, b, c;", func(a, b, c uint64) uint64 { return a*b>>32 + c }},
		{"b64 b32 b32 b64", "mad.wide.u32 d, a, b, c;", func(a, b, c uint64) uint64 { return a*b + c }},
		{"b64 b32 b32 b64", "mad.wide.s32 d, a, b, c;", func(a, b, c uint64) uint64 { return uint64(s32(a)*s32(b)) + c }},
		{"b16 b16 b16 b16", "mad.lo.s16 d, a, b, c;", func(a, b, c uint64) uint64 { return a*b + c }},
		{"b32 b32 b32", "mul24.lo.s32 d, a, b;", func(a, b, _ uint64) uint64 {
			return uint64(int64(int32(a<<8)>>8) * int64(int32(b<<8)>>8))
		}},
		{"b32 b32 b32", "div.u32 d, a, b;", func(a, b, _ uint64) uint64 {
			if b == 0 {
				return 0xffffffff
			}
			return a / b
		}},
		{"b32 b32 b32", "div.s32 d, a, b;", func(a, b, _ uint64) uint64 {
			if b == 0 {
				return 0xffffffff
			}
			return uint64(s32(a) / s32(b))
		}},
		{"b32 b32 b32", "rem.s32 d, a, b;", func(a, b, _ uint64) uint64 {
			if b == 0 {
				return a
			}
			return uint64(s32(a) % s32(b))
		}},
		{"b32 b32 b32", "rem.u32 d, a, b;", func(a, b, _ uint64) uint64 {
			if b == 0 {
				return a
			}
			return a % b
		}},
		{"b64 b64 b64", "div.s64 d, a, b;", func(a, b, _ uint64) uint64 {
			if b == 0 {
				return ^uint64(0)
			}
			q := new(big.Int).Quo(big.NewInt(int64(a)), big.NewInt(int64(b)))
			return new(big.Int).And(q, new(big.Int).SetUint64(^uint64(0))).Uint64()
		}},
		{"b32 b32 b32", "min.s32 d, a, b;", func(a, b, _ uint64) uint64 { return uint64(min(s32(a), s32(b))) }},
		{"b32 b32 b32", "max.s32 d, a, b;", func(a, b, _ uint64) uint64 { return uint64(max(s32(a), s32(b))) }},
		{"b32 b32 b32", "min.u32 d, a, b;", func(a, b, _ uint64) uint64 { return min(a, b) }},
		{"b32 b32 b32", "max.u32 d, a, b;", func(a, b, _ uint64) uint64 { return max(a, b) }},
		{"b16 b16 b16", "max.s16 d, a, b;", func(a, b, _ uint64) uint64 { return uint64(max(int16(a), int16(b))) }},
		{"b64 b64 b64", "min.s64 d, a, b;", func(a, b, _ uint64) uint64 { return uint64(min(int64(a), int64(b))) }},
		{"b32 b32", "neg.s32 d, a;", func(a, _, _ uint64) uint64 { return -a }},
		{"b32 b32", "abs.s32 d, a;", func(a, _, _ uint64) uint64 { return uint64(max(s32(a), -s32(a))) }},
		{"b32 b32 b32 b32", "sad.s32 d, a, b, c;", func(a, b, c uint64) uint64 { return uint64(max(s32(a)-s32(b), s32(b)-s32(a))) + c }},
		{"b32 b32 b32 b32", "dp4a.s32.s32 d, a, b, c;", func(a, b, c uint64) uint64 {
			for i := 0; i < 4; i++ {
				c += uint64(int64(int8(a>>(8*i))) * int64(int8(b>>(8*i))))
			}
			return c
		}},
		{"b32 b32 b32 b32", "dp4a.u32.s32 d, a, b, c;", func(a, b, c uint64) uint64 {
			for i := 0; i < 4; i++ {
				c += uint64(int64(uint8(a>>(8*i))) * int64(int8(b>>(8*i))))
			}
			return c
		}},
		{"b32 b32 b32 b32", "dp2a.hi.s32.s32 d, a, b, c;", func(a, b, c uint64) uint64 {
			return c + uint64(int64(int16(a))*int64(int8(b>>16))+int64(int16(a>>16))*int64(int8(b>>24)))
		}},
	})
}

func TestBitOps(t *testing.T) {
	sh := func(x uint64) uint { return uint(min(x&0xffffffff, 64)) }
	runCases(t, []opCase{
		{"b32 b32 b32", "and.b32 d, a, b;", func(a, b, _ uint64) uint64 { return a & b }},
		{"b32 b32 b32", "or.b32 d, a, b;", func(a, b, _ uint64) uint64 { return a | b }},
		{"b32 b32 b32", "xor.b32 d, a, b;", func(a, b, _ uint64) uint64 { return a ^ b }},
		{"b64 b64 b64", "and.b64 d, a, b;", func(a, b, _ uint64) uint64 { return a & b }},
		{"b16 b16 b16", "xor.b16 d, a, b;", func(a, b, _ uint64) uint64 { return a ^ b }},
		{"pred pred pred", "and.pred d, a, b;", func(a, b, _ uint64) uint64 { return a & b }},
		{"pred pred pred", "or.pred d, a, b;", func(a, b, _ uint64) uint64 { return a | b }},
		{"pred pred pred", "xor.pred d, a, b;", func(a, b, _ uint64) uint64 { return a ^ b }},
		{"pred pred", "not.pred d, a;", func(a, _, _ uint64) uint64 { return a ^ 1 }},
		{"b32 b32", "not.b32 d, a;", func(a, _, _ uint64) uint64 { return ^a }},
		{"b32 b32", "cnot.b32 d, a;", func(a, _, _ uint64) uint64 { return b2u(a == 0) }},
		{"b32 b32 b32", "shl.b32 d, a, b;", func(a, b, _ uint64) uint64 { return a << sh(b) }},
		{"b32 b32", "shl.b32 d, a, 5;", func(a, _, _ uint64) uint64 { return a << 5 }},
		{"b32 b32", "shl.b32 d, a, 40;", func(_, _, _ uint64) uint64 { return 0 }},
		{"b32 b32 b32", "shr.u32 d, a, b;", func(a, b, _ uint64) uint64 { return a >> sh(b) }},
		{"b32 b32", "shr.u32 d, a, 7;", func(a, _, _ uint64) uint64 { return a >> 7 }},
		{"b32 b32", "shr.u32 d, a, 33;", func(_, _, _ uint64) uint64 { return 0 }},
		{"b32 b32 b32", "shr.s32 d, a, b;", func(a, b, _ uint64) uint64 { return uint64(int64(int32(a)) >> sh(b)) }},
		{"b64 b64 b32", "shl.b64 d, a, b;", func(a, b, _ uint64) uint64 { return a << sh(b) }},
		{"b64 b64 b32", "shr.s64 d, a, b;", func(a, b, _ uint64) uint64 { return uint64(int64(a) >> sh(b)) }},
		{"b16 b16 b32", "shr.u16 d, a, b;", func(a, b, _ uint64) uint64 { return a >> sh(b) }},
		{"b32 b32 b32 b32", "shf.l.wrap.b32 d, a, b, c;", func(a, b, c uint64) uint64 {
			return (b<<32 | a) << (c & 31) >> 32
		}},
		{"b32 b32 b32 b32", "shf.r.wrap.b32 d, a, b, c;", func(a, b, c uint64) uint64 { return (b<<32 | a) >> (c & 31) }},
		{"b32 b32 b32 b32", "shf.r.clamp.b32 d, a, b, c;", func(a, b, c uint64) uint64 { return (b<<32 | a) >> min(c, 32) }},
		{"b32 b32", "popc.b32 d, a;", func(a, _, _ uint64) uint64 { return uint64(bits.OnesCount64(a)) }},
		{"b32 b64", "popc.b64 d, a;", func(a, _, _ uint64) uint64 { return uint64(bits.OnesCount64(a)) }},
		{"b32 b32", "clz.b32 d, a;", func(a, _, _ uint64) uint64 { return uint64(bits.LeadingZeros32(uint32(a))) }},
		{"b32 b64", "clz.b64 d, a;", func(a, _, _ uint64) uint64 { return uint64(bits.LeadingZeros64(a)) }},
		{"b32 b32", "brev.b32 d, a;", func(a, _, _ uint64) uint64 { return uint64(bits.Reverse32(uint32(a))) }},
		{"b64 b64", "brev.b64 d, a;", func(a, _, _ uint64) uint64 { return bits.Reverse64(a) }},
		{"b32 b32", "bfind.u32 d, a;", func(a, _, _ uint64) uint64 { return uint64(bits.Len32(uint32(a)) - 1) }},
		{"b32 b32", "bfind.shiftamt.u32 d, a;", func(a, _, _ uint64) uint64 {
			if a == 0 {
				return 0xffffffff
			}
			return uint64(bits.LeadingZeros32(uint32(a)))
		}},
		{"b32 b32", "bfind.s32 d, a;", func(a, _, _ uint64) uint64 {
			x := uint32(a)
			if int32(x) < 0 {
				x = ^x
			}
			return uint64(bits.Len32(x) - 1)
		}},
		{"b32 b32 b32 b32", "bfe.u32 d, a, b, c;", func(a, b, c uint64) uint64 {
			var r uint64
			for i := uint64(0); i < c&0xff && i < 32; i++ { // the PTX ISA's loop
				if p := b&0xff + i; p < 32 {
					r |= a >> p & 1 << i
				}
			}
			return r
		}},
		{"b32 b32 b32 b32", "bfe.s32 d, a, b, c;", func(a, b, c uint64) uint64 {
			pos, n := b&0xff, c&0xff
			if n == 0 {
				return 0
			}
			fill := a >> min(pos+n-1, 31) & 1
			var r uint64
			for i := uint64(0); i < 32; i++ {
				if i < n && pos+i <= 31 {
					r |= a >> (pos + i) & 1 << i
				} else {
					r |= fill << i
				}
			}
			return r
		}},
		{"b32 b32 b32", "bfi.b32 d, a, b, 4, 8;", func(a, b, _ uint64) uint64 { return b&^0xff0 | a&0xff<<4 }},
		{"b32 b32 b32", "bfi.b32 d, a, b, 28, 8;", func(a, b, _ uint64) uint64 { return b&0xfffffff | a<<28 }},
		{"b64 b64 b64", "bfi.b64 d, a, b, 32, 32;", func(a, b, _ uint64) uint64 { return b&0xffffffff | a<<32 }},
		{"b32 b32 b32 b32", "prmt.b32 d, a, b, c;", func(a, b, c uint64) uint64 {
			var by [8]byte
			for i := range by {
				by[i] = byte((b<<32 | a) >> (8 * i))
			}
			var r uint64
			for i := 0; i < 4; i++ {
				n := c >> (4 * i)
				v := by[n&7]
				if n&8 != 0 {
					if v&0x80 != 0 {
						v = 0xff
					} else {
						v = 0
					}
				}
				r |= uint64(v) << (8 * i)
			}
			return r
		}},
		{"b32 b32 b32", "prmt.b32 d, a, b, 0x5410;", func(a, b, _ uint64) uint64 { return a&0xffff | b<<16 }},
		{"b32 b32 b32", "prmt.b32 d, a, b, 0x2074;", func(a, b, _ uint64) uint64 {
			return b&0xff | b>>24<<8 | a&0xff<<16 | a>>16&0xff<<24
		}},
		{"b32 b32 b32", "prmt.b32 d, a, b, 0x9;", func(a, _, _ uint64) uint64 {
			return uint64(uint8(int8(a>>8)>>7)) | a&0xff<<8 | a&0xff<<16 | a&0xff<<24
		}},
		{"b32 b32 b32 b32", "lop3.b32 d, a, b, c, 0xca;", func(a, b, c uint64) uint64 { return a&b | ^a&c }},
		{"b32 b32 b32 b32", "lop3.b32 d, a, b, c, 0xea;", func(a, b, c uint64) uint64 { return a&b | c }},
		{"b32 b32 b32 b32", "lop3.b32 d, a, b, c, 0x6a;", func(a, b, c uint64) uint64 { return a&b ^ c }},
		{"b32 b32 b32 b32", "lop3.b32 d, a, b, c, 0x96;", func(a, b, c uint64) uint64 { return a ^ b ^ c }},
		{"b32 b32 b32", "bmsk.clamp.b32 d, a, b;", func(a, b, _ uint64) uint64 {
			if a >= 32 {
				return 0
			}
			return (1<<min(b, 32) - 1) << a
		}},
	})
}

func TestMoveSelectCompare(t *testing.T) {
	s32 := func(x uint64) int32 { return int32(x) }
	runCases(t, []opCase{
		{"b32 b32", "mov.b32 d, a;", func(a, _, _ uint64) uint64 { return a }},
		{"b64 b32 b32", "mov.b64 d, {a, b};", func(a, b, _ uint64) uint64 { return b<<32 | a }},
		{"b32 b16 b16", "mov.b32 d, {a, b};", func(a, b, _ uint64) uint64 { return b<<16 | a }},
		{"b32 b64", "mov.b64 {_, d}, a;", func(a, _, _ uint64) uint64 { return a >> 32 }},
		{"b16 b32", "{.reg .b16 lo, hi; mov.b32 {lo, hi}, a; mov.b16 d, hi;}", func(a, _, _ uint64) uint64 { return a >> 16 }},
		{"b32 b32 b32 pred", "selp.b32 d, a, b, c;", func(a, b, c uint64) uint64 {
			if c != 0 {
				return a
			}
			return b
		}},
		{"b64 b64 b64 pred", "selp.b64 d, a, b, c;", func(a, b, c uint64) uint64 {
			if c != 0 {
				return a
			}
			return b
		}},
		{"b32 b32 b32 b32", "slct.s32.s32 d, a, b, c;", func(a, b, c uint64) uint64 {
			if s32(c) >= 0 {
				return a
			}
			return b
		}},
		{"pred b32 b32", "setp.lt.s32 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(s32(a) < s32(b)) }},
		{"pred b32 b32", "setp.ge.s32 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(s32(a) >= s32(b)) }},
		{"pred b32 b32", "setp.gt.s32 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(s32(a) > s32(b)) }},
		{"pred b32 b32", "setp.le.s32 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(s32(a) <= s32(b)) }},
		{"pred b32 b32", "setp.lt.u32 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(a < b) }},
		{"pred b32 b32", "setp.hi.u32 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(a > b) }},
		{"pred b32 b32", "setp.ls.u32 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(a <= b) }},
		{"pred b32 b32", "setp.hs.u32 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(a >= b) }},
		{"pred b32 b32", "setp.eq.b32 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(a == b) }},
		{"pred b32 b32", "setp.ne.s32 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(a != b) }},
		{"pred b64 b64", "setp.lt.s64 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(int64(a) < int64(b)) }},
		{"pred b64 b64", "setp.gt.u64 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(a > b) }},
		{"pred b16 b16", "setp.gt.s16 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(int16(a) > int16(b)) }},
		{"pred b32 b32 pred", "setp.lt.and.s32 d, a, b, c;", func(a, b, c uint64) uint64 { return b2u(s32(a) < s32(b)) & c }},
		{"pred b32 b32 pred", "setp.lt.or.s32 d, a, b, !c;", func(a, b, c uint64) uint64 { return b2u(s32(a) < s32(b)) | (c ^ 1) }},
		{"pred b32 b32", "setp.lt.s32 _|d, a, b;", func(a, b, _ uint64) uint64 { return b2u(s32(a) >= s32(b)) }},
		{"b32 b32 b32", "set.lt.u32.s32 d, a, b;", func(a, b, _ uint64) uint64 { return -b2u(s32(a) < s32(b)) }},
		{"b32 b32 b32", "set.gt.f32.u32 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(a > b) * 0x3f800000 }},
		{"b64 b64", "cvta.to.global.u64 d, a;", func(a, _, _ uint64) uint64 { return a }},
		{"b64 b64", "{.reg .b64 g; cvta.shared.u64 g, a; cvta.to.shared.u64 d, g;}", func(a, _, _ uint64) uint64 { return a }},
	})
}
