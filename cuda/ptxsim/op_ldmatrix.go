package ptxsim

import (
	"encoding/binary"
	"slices"
)

// decodeLdmatrix loads 1, 2 or 4 matrices of 8x8 halves. Lane 8j+r gives the
// address of row r of matrix j; lane l receives elements 2(l%4), 2(l%4)+1 of row
// l/4, or with .trans those of column l/4.
func decodeLdmatrix(b *builder, st *statement) execFn {
	ms := b.mods(st, "sync aligned m8n8 x1 x2 x4 trans shared shared::cta")
	n := matrices(ms)
	if !slices.Equal(ms.types, []dtype{tB16}) || !ms.has("m8n8") || n == 0 || !ms.has("aligned") {
		panic(b.unsupported("shape or type"))
	}
	b.args(2)
	regs := b.elements(st.args[0], n, tB32, b.strictDst)
	acc := b.memArg(st.args[1], spaceOf(st))
	trans := ms.has("trans")
	return func(w *warp, m uint32) {
		if m == 0 {
			return
		}
		addrs := w.matrixAddresses(acc, n)
		for j := 0; j < n; j++ {
			var rows [8][]byte
			for r := range rows {
				rows[r] = w.sharedRead(addrs[8*j+r], 16, manyLanes)
			}
			o := &w.r32[regs[j].i]
			for l := range o {
				g, t := l>>2, l&3
				if trans {
					o[l] = uint32(binary.LittleEndian.Uint16(rows[2*t][2*g:])) |
						uint32(binary.LittleEndian.Uint16(rows[2*t+1][2*g:]))<<16
				} else {
					o[l] = binary.LittleEndian.Uint32(rows[g][4*t:])
				}
			}
			w.d32[regs[j].i] = full
		}
	}
}

func matrices(ms modset) int {
	switch {
	case ms.has("x1"):
		return 1
	case ms.has("x2"):
		return 2
	case ms.has("x4"):
		return 4
	}
	return 0
}

// matrixAddresses gives the row addresses; only the lanes that supply one are read.
func (w *warp) matrixAddresses(acc access, n int) *lanes64 {
	users := uint32(uint64(1)<<(8*n) - 1)
	addrs := acc.addresses(w, users)
	if acc.sp == spGeneric {
		for i := 0; i < 8*n; i++ {
			sp, a := splitGeneric(addrs[i])
			if sp != spShared {
				w.fail(KindBounds, i, "matrix row at %#x, which is not shared memory", addrs[i])
			}
			addrs[i] = a
		}
	}
	if c := w.blk.count; c != nil {
		c.countBanks(w.at(), addrs, users, 16)
	}
	return addrs
}

// decodeStmatrix is the inverse of ldmatrix.
func decodeStmatrix(b *builder, st *statement) execFn {
	ms := b.mods(st, "sync aligned m8n8 x1 x2 x4 trans shared shared::cta")
	n := matrices(ms)
	if !slices.Equal(ms.types, []dtype{tB16}) || !ms.has("m8n8") || n == 0 {
		panic(b.unsupported("shape or type"))
	}
	b.args(2)
	acc := b.memArg(st.args[0], spaceOf(st))
	regs := b.elements(st.args[1], n, tB32, b.strict)
	trans := ms.has("trans")
	return func(w *warp, m uint32) {
		if m == 0 {
			return
		}
		addrs := w.matrixAddresses(acc, n)
		for j := 0; j < n; j++ {
			v := w.in32(regs[j].i, full)
			for r := 0; r < 8; r++ {
				row := w.sharedWrite(addrs[8*j+r], 16, 8*j+r)
				for c := 0; c < 8; c++ {
					from, half := 4*r+c/2, c&1
					if trans {
						from, half = 4*c+r/2, r&1
					}
					binary.LittleEndian.PutUint16(row[2*c:], uint16(v[from]>>(16*half)))
				}
			}
		}
	}
}

// decodeMovmatrix transposes an 8x8 matrix held by the warp.
func decodeMovmatrix(b *builder, st *statement) execFn {
	b.mods(st, "sync aligned m8n8 trans b16")
	b.args(2)
	d := b.strictDst(st.args[0], tB32)
	x := b.strict(st.args[1], tB32)
	return func(w *warp, m uint32) {
		if m == 0 {
			return
		}
		v := *w.in32(x.i, full)
		at := func(r, c int) uint32 { return v[4*r+c/2] >> (16 * (c & 1)) & 0xffff }
		o := &w.r32[d.i]
		for l := range o {
			g, t := l>>2, l&3
			o[l] = at(2*t, g) | at(2*t+1, g)<<16
		}
		w.d32[d.i] = full
	}
}
