package loader

// The block types of GGUF (ggml-common.h): a block holds 32 numbers, or 256 in
// the K types, which share scales. Each function names its block's fields in
// order.

// unpackQ4_0: d f16, qs[16]; w = d*(q-8). Low nibbles are numbers 0..15.
func unpackQ4_0(dst []float32, src []byte) bool {
	ok := true
	for ; len(dst) >= 32; dst, src = dst[32:], src[18:] {
		d, fin := half(src)
		ok = ok && fin
		var t [16]float32
		for q := range t {
			t[q] = d * float32(q-8)
		}
		nibbles((*[32]float32)(dst), (*[16]byte)(src[2:]), &t)
	}
	return ok
}

// unpackQ4_1: d, m f16, qs[16]; w = d*q + m.
func unpackQ4_1(dst []float32, src []byte) bool {
	ok := true
	for ; len(dst) >= 32; dst, src = dst[32:], src[20:] {
		d, fin := half(src)
		m, fin2 := half(src[2:])
		ok = ok && fin && fin2
		// All 16 weights of the block first: 32 lookups then cost no arithmetic.
		t := [16]float32{
			m, d + m, float32(d*2) + m, float32(d*3) + m, float32(d*4) + m, float32(d*5) + m, float32(d*6) + m, float32(d*7) + m,
			float32(d*8) + m, float32(d*9) + m, float32(d*10) + m, float32(d*11) + m, float32(d*12) + m, float32(d*13) + m, float32(d*14) + m, float32(d*15) + m,
		}
		nibbles((*[32]float32)(dst), (*[16]byte)(src[4:]), &t)
	}
	return ok
}

// nibbles looks up 16 low, then 16 high nibbles.
func nibbles(y *[32]float32, qs *[16]byte, t *[16]float32) {
	for j := 0; j < 16; j += 4 {
		a, b, c, d := qs[j], qs[j+1], qs[j+2], qs[j+3]
		y[j], y[j+1], y[j+2], y[j+3] = t[a&15], t[b&15], t[c&15], t[d&15]
		y[j+16], y[j+17], y[j+18], y[j+19] = t[a>>4], t[b>>4], t[c>>4], t[d>>4]
	}
}

// unpackQ5_0: d f16, qh u32, qs[16]; bit j of qh is bit 4 of number j;
// w = d*(q-16).
func unpackQ5_0(dst []float32, src []byte) bool {
	ok := true
	for ; len(dst) >= 32; dst, src = dst[32:], src[22:] {
		d, fin := half(src)
		ok = ok && fin
		var t [32]float32
		for q := range t {
			t[q] = d * float32(q-16)
		}
		fives((*[32]float32)(dst), le32(src[2:]), (*[16]byte)(src[6:]), &t)
	}
	return ok
}

// unpackQ5_1: d, m f16, qh u32, qs[16]; w = d*q + m.
func unpackQ5_1(dst []float32, src []byte) bool {
	ok := true
	for ; len(dst) >= 32; dst, src = dst[32:], src[24:] {
		d, fin := half(src)
		m, fin2 := half(src[2:])
		ok = ok && fin && fin2
		var t [32]float32
		for q := range t {
			t[q] = float32(d*float32(q)) + m
		}
		fives((*[32]float32)(dst), le32(src[4:]), (*[16]byte)(src[8:]), &t)
	}
	return ok
}

func fives(y *[32]float32, qh uint32, qs *[16]byte, t *[32]float32) {
	for j, q := range qs {
		h := qh >> j
		y[j] = t[uint32(q&15)|h<<4&16]
		y[j+16] = t[uint32(q>>4)|h>>12&16]
	}
}

// unpackQ8_0: d f16, qs int8[32]; w = d*q.
func unpackQ8_0(dst []float32, src []byte) bool {
	ok := true
	for ; len(dst) >= 32; dst, src = dst[32:], src[34:] {
		d, fin := half(src)
		ok = ok && fin
		y, qs := (*[32]float32)(dst), (*[32]byte)(src[2:])
		for j := 0; j < 32; j += 4 {
			y[j] = d * byteTable[qs[j]]
			y[j+1] = d * byteTable[qs[j+1]]
			y[j+2] = d * byteTable[qs[j+2]]
			y[j+3] = d * byteTable[qs[j+3]]
		}
	}
	return ok
}

// scaleMin unpacks the 6-bit scale and minimum of group j (0..7) of a K block.
func scaleMin(s *[12]byte, j int) (scale, minimum float32) {
	if j < 4 {
		return float32(s[j] & 63), float32(s[j+4] & 63)
	}
	return float32(s[j+4]&15 | s[j-4]>>6<<4), float32(s[j+4]>>4 | s[j]>>6<<4)
}

// unpackQ4_K: d, dmin f16, scales[12], qs[128]; 8 groups of 32: w = d*s*q - dmin*m.
// Groups 2i and 2i+1 are the low and high nibbles of qs[32i..].
func unpackQ4_K(dst []float32, src []byte) bool {
	ok := true
	for ; len(dst) >= 256; dst, src = dst[256:], src[144:] {
		d, fin := half(src)
		dmin, fin2 := half(src[2:])
		ok = ok && fin && fin2
		s := (*[12]byte)(src[4:])
		for g := range 8 {
			sc, mn := scaleMin(s, g)
			a, b := d*sc, dmin*mn
			var t [16]float32
			for q := range t {
				t[q] = float32(a*float32(q)) - b
			}
			y, qs := (*[32]float32)(dst[32*g:]), (*[32]byte)(src[16+g/2*32:])
			shift := g & 1 * 4
			for j, q := range qs {
				y[j] = t[q>>shift&15]
			}
		}
	}
	return ok
}

// unpackQ5_K: d, dmin f16, scales[12], qh[32], qs[128]; as Q4_K with bit g of
// qh[j] as bit 4 of number j of group g.
func unpackQ5_K(dst []float32, src []byte) bool {
	ok := true
	for ; len(dst) >= 256; dst, src = dst[256:], src[176:] {
		d, fin := half(src)
		dmin, fin2 := half(src[2:])
		ok = ok && fin && fin2
		s, qh := (*[12]byte)(src[4:]), (*[32]byte)(src[16:])
		for g := range 8 {
			sc, mn := scaleMin(s, g)
			a, b := d*sc, dmin*mn
			var t [32]float32
			for q := range t {
				t[q] = float32(a*float32(q)) - b
			}
			y, qs := (*[32]float32)(dst[32*g:]), (*[32]byte)(src[48+g/2*32:])
			shift := g & 1 * 4
			for j, q := range qs {
				y[j] = t[q>>shift&15|qh[j]>>g<<4&16]
			}
		}
	}
	return ok
}

// unpackQ6_K: ql[128], qh[64], scales int8[16], d f16; 16 groups of 16:
// w = d*s*(q-32).
func unpackQ6_K(dst []float32, src []byte) bool {
	ok := true
	for ; len(dst) >= 256; dst, src = dst[256:], src[210:] {
		d, fin := half(src[208:])
		ok = ok && fin
		var a [16]float32
		for g := range a {
			a[g] = d * byteTable[src[192+g]]
		}
		for h := range 2 { // halves of 128 numbers
			y, ql, qh := (*[128]float32)(dst[128*h:]), (*[64]byte)(src[64*h:]), (*[32]byte)(src[128+32*h:])
			for j, b := range qh {
				s := 8*h + j/16
				y[j] = a[s] * float32(int(ql[j]&15|b&3<<4)-32)
				y[j+32] = a[s+2] * float32(int(ql[j+32]&15|b>>2&3<<4)-32)
				y[j+64] = a[s+4] * float32(int(ql[j]>>4|b>>4&3<<4)-32)
				y[j+96] = a[s+6] * float32(int(ql[j+32]>>4|b>>6<<4)-32)
			}
		}
	}
	return ok
}
