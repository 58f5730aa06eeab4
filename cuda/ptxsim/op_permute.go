package ptxsim

// permute is prmt in its default mode: selector nibbles pick bytes of {b:a},
// bit 3 of a nibble replicates the byte's sign.
func permute(a, b, sel uint64) uint64 {
	v := b<<32 | a&0xffffffff
	var r uint64
	for i := 0; i < 4; i++ {
		s := sel >> (4 * i) & 0xf
		by := v >> (8 * (s & 7)) & 0xff
		if s&8 != 0 {
			by = uint64(uint8(int8(by) >> 7))
		}
		r |= by << (8 * i)
	}
	return r
}

var permuteModes = map[string][4]uint64{ // selectors of the named modes by sel&3
	"f4e": {0x3210, 0x4321, 0x5432, 0x6543}, "b4e": {0x5670, 0x6701, 0x7012, 0x0123},
	"rc8": {0x0000, 0x1111, 0x2222, 0x3333}, "ecl": {0x3210, 0x3211, 0x3222, 0x3333},
	"ecr": {0x0000, 0x1110, 0x2210, 0x3210}, "rc16": {0x1010, 0x3232, 0x1010, 0x3232},
}

func decodePrmt(b *builder, st *statement) execFn {
	ms := b.mods(st, "f4e b4e rc8 ecl ecr rc16")
	for _, name := range ms.flags {
		tab := permuteModes[name]
		return b.map3(tB32, tB32, tB32, tB32, func(x, y, s uint64) uint64 { return permute(x, y, tab[s&3]) })
	}
	if len(st.args) == 4 && st.args[3].kind == argImm && st.args[3].bits&0x8888 == 0 {
		d, s := b.operands(tB32, tB32, tB32, tB32)
		var by [4]uint64 // shifts that bring the four bytes down
		for i := range by {
			by[i] = st.args[3].bits >> (4 * i) & 7 * 8
		}
		return func(w *warp, m uint32) {
			x, y := w.in32(s[0].i, m), w.in32(s[1].i, m)
			o := w.out32(d.i, m)
			for i := range o {
				v := uint64(y[i])<<32 | uint64(x[i])
				o[i] = uint32(v>>by[0]&0xff | v>>by[1]&0xff<<8 | v>>by[2]&0xff<<16 | v>>by[3]&0xff<<24)
			}
			w.put32(d.i, m)
		}
	}
	return b.map3(tB32, tB32, tB32, tB32, permute)
}

// decodeLop3 evaluates the truth table in the immediate: bit (a<<2|b<<1|c).
func decodeLop3(b *builder, st *statement) execFn {
	b.mods(st, "")
	b.args(5)
	if st.args[4].kind != argImm {
		panic(b.unsupported("truth table is no constant"))
	}
	lut := uint32(st.args[4].bits)
	d := b.strictDst(st.args[0], tB32)
	var s [3]slot
	for i := range s {
		s[i] = b.strict(st.args[i+1], tB32)
	}
	return func(w *warp, m uint32) {
		x, y, z := w.in32(s[0].i, m), w.in32(s[1].i, m), w.in32(s[2].i, m)
		o := w.out32(d.i, m)
		switch lut {
		case 0xea: // (a & b) | c: the unpacking idiom of int4 kernels
			for i := range o {
				o[i] = x[i]&y[i] | z[i]
			}
		case 0x6a: // (a & b) ^ c
			for i := range o {
				o[i] = x[i]&y[i] ^ z[i]
			}
		default:
			for i := range o {
				o[i] = lop3(x[i], y[i], z[i], lut)
			}
		}
		w.put32(d.i, m)
	}
}

func lop3(a, b, c, lut uint32) uint32 {
	var r uint32
	for t := uint32(0); t < 8; t++ {
		if lut>>t&1 == 0 {
			continue
		}
		x, y, z := ^a, ^b, ^c
		if t&4 != 0 {
			x = a
		}
		if t&2 != 0 {
			y = b
		}
		if t&1 != 0 {
			z = c
		}
		r |= x & y & z
	}
	return r
}

// decodeBmsk and szext of PTX 7.6.
func decodeBmsk(b *builder, st *statement) execFn {
	ms := b.mods(st, "clamp wrap")
	return b.map2(tB32, tU32, tU32, func(pos, n uint64) uint64 {
		if ms.has("wrap") {
			pos, n = pos&31, n&31
		}
		if pos >= 32 {
			return 0
		}
		return (1<<min(n, 32) - 1) << pos
	})
}
