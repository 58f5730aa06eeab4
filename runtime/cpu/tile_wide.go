package cpu

import (
	"unsafe"

	"github.com/sparserun/sparserun/sparse"
)

// Batches of dense floats. A block of rows meets every panel of tokens, so half
// precision is unpacked once, to float32 in scratch memory, and multiplied by the
// float32 kernel: converting beside every 8 tokens cost a quarter of the time (f16
// 83 GFLOP/s, float32 110, batch 128 on Zen 4). Columns go in spans whose unpacked
// block stays in a second-level cache, and all blocks meet one span of the
// activations before the next.

// wideRows is the batch from which this pays.
const wideRows = 32

// wide reports whether m has kernels for mulWide.
func (m *tiled) wide() bool { return m.layout == sparse.LayoutDense && wideKernel(m.kern) != 0 }

// mulWide adds the products of rows r0..r1 to out.
func (m *tiled) mulWide(out []float32, ld int, x *acts, r0, r1 int) {
	kern := wideKernel(m.kern)
	block := m.block
	span := min(m.chunks, scratchFloats/(block*m.chunk))
	sc := takeScratch()
	defer sc.give()
	for k0 := 0; k0 < m.chunks; k0 += span {
		t := tile{k: min(span, m.chunks-k0), n: 1}
		for r := r0; r < r1; r += block {
			m.unpack(&t, sc.f[:], r, k0)
			for t0 := 0; t0 < x.rows; {
				w := x.panel(&t, m.reads, t0)
				t.x = unsafe.Add(t.x, k0*16*w) // a chunk is a unit of each token
				if r1-r >= block {
					t.out, t.ld = unsafe.Pointer(&out[t0*ld+r]), uintptr(4*ld)
					kern.run(&t, w)
				} else {
					clear(sc.edge[:w*block])
					t.out, t.ld = unsafe.Pointer(&sc.edge), uintptr(4*block)
					kern.run(&t, w)
					addEdge(out[t0*ld+r:], ld, sc.edge[:w*block], block, r1-r)
				}
				t0 += w
			}
		}
	}
}

// unpack points t at the float32 form of t.k chunks from k0 on of the block of rows
// that starts at r, in scratch memory f unless that is the weight's own.
func (m *tiled) unpack(t *tile, f []float32, r, k0 int) {
	m.at(t, r/m.block)
	t.w = unsafe.Add(t.w, k0*m.chunkBytes())
	if m.typ != sparse.F32 {
		unpackTile(m.kern, &f[0], t.w, t.k)
		t.w = unsafe.Pointer(&f[0])
	}
}
