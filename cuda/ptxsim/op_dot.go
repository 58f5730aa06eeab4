package ptxsim

func decodeMul24(b *builder, st *statement) execFn {
	ms, t := b.typed(st, "lo hi")
	cut := func(x uint64) uint64 {
		if t == tS32 {
			return uint64(int64(x<<40) >> 40)
		}
		return x & 0xffffff
	}
	mul := func(x, y uint64) uint64 {
		p := cut(x) * cut(y)
		if ms.has("hi") {
			p = uint64(int64(p) >> 16)
		}
		return p
	}
	if st.op == "mul24" {
		return b.map2(t, t, t, mul)
	}
	return b.map3(t, t, t, t, func(x, y, z uint64) uint64 { return mul(x, y) + z })
}

func decodeSad(b *builder, st *statement) execFn {
	_, t := b.typed(st, "")
	return b.map3(t, t, t, t, func(x, y, z uint64) uint64 {
		if t.signed() && int64(x) < int64(y) || !t.signed() && x < y {
			x, y = y, x
		}
		return z + x - y
	})
}

// decodeDp is dp4a and dp2a: d = c + sum a[i]*b[i] over bytes (dp2a: halves of a
// by the low or high bytes of b).
func decodeDp(b *builder, st *statement) execFn {
	ms := b.mods(st, "lo hi")
	if len(ms.types) != 2 {
		panic(b.unsupported("%d types", len(ms.types)))
	}
	at, bt := ms.types[0], ms.types[1]
	ext := func(x uint64, signed bool, size int) uint64 {
		if signed {
			return uint64(int64(x<<(64-size)) >> (64 - size))
		}
		return x & (1<<size - 1)
	}
	ct := tU32
	if at.signed() || bt.signed() {
		ct = tS32
	}
	if st.op == "dp4a" {
		return b.map3(ct, tB32, tB32, ct, func(x, y, z uint64) uint64 {
			for i := 0; i < 32; i += 8 {
				z += ext(x>>i, at.signed(), 8) * ext(y>>i, bt.signed(), 8)
			}
			return z
		})
	}
	if ms.has("hi") == ms.has("lo") {
		panic(b.unsupported("neither .lo nor .hi"))
	}
	return b.map3(ct, tB32, tB32, ct, func(x, y, z uint64) uint64 {
		if ms.has("hi") {
			y >>= 16
		}
		return z + ext(x, at.signed(), 16)*ext(y, bt.signed(), 8) + ext(x>>16, at.signed(), 16)*ext(y>>8, bt.signed(), 8)
	})
}
