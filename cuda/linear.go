package cuda

import (
	"fmt"

	"github.com/sparserun/sparserun/cuda/tile"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// gemvRows is the largest batch of the decode kernels; larger ones run on tensor
// cores, or in slices of this size where no tile form fits.
const gemvRows = 8

// tileThreads is the block size of the tensor-core kernels.
const tileThreads = 128

// tiled reports whether batches run on tensor cores: the types that the device
// repacks, and widths whose rows are whole 16-byte units.
func (w *weight) tiled() bool {
	switch w.layout {
	case sparse.LayoutDense, sparse.LayoutNM24:
		switch w.t {
		case sparse.F16:
			return w.in%8 == 0
		case sparse.Int8:
			return w.in%16 == 0
		}
	}
	return false
}

func (w *weight) form() tile.Form { return tile.Form{NM24: w.layout == sparse.LayoutNM24, Type: w.t} }

// stem is the kernel's name without its sizes.
func (w *weight) stem() (gemv, batch string) {
	if w.layout == sparse.LayoutNM24 {
		return "gemv_nm24_", "spmm_nm24_"
	}
	return "gemv_", "gemm_"
}

func (p *program) linear(s *runtime.Step, x, y Ptr, rows func() int) (func() error, *weight, error) {
	n := s.Node
	w := p.linears[n.Weight]
	if w == nil {
		var err error
		if w, err = p.upload(n.Weight.Data, s.Kernel.Layout, s.Kernel.Weight, p.group(s), padding(s.Kernel.Layout, s.Kernel.Weight)); err != nil {
			return nil, nil, err
		}
		p.linears[n.Weight] = w
	}
	bias, err := p.vector(n.Bias)
	if err != nil {
		return nil, nil, err
	}
	c := &linearCall{p: p, w: w, x: x, y: y, bias: bias, ldx: int32(ld(w.in)), ldy: int32(ld(w.rows))}
	if s.Residual >= 0 {
		c.res, c.ldr = p.buffers[s.Residual], int32(ld(w.rows))
	}
	if err := c.find(); err != nil {
		return nil, nil, err
	}
	return func() error { return c.launch(rows()) }, w, nil
}

func (p *program) group(s *runtime.Step) int {
	if s.Kernel.Weight == sparse.Int8 {
		return 0
	}
	return p.plan.Group
}

// linearCall is one Linear with its kernels by batch size.
type linearCall struct {
	p              *program
	w              *weight
	x, y, bias     Ptr
	res            Ptr
	ldx, ldy, ldr  int32
	gemv           map[int]Func // by rows that the kernel holds in registers
	spmm           map[int]Func // by columns of its tile
	shared         map[int]int
	pack, quantise Func
}

func (c *linearCall) find() error {
	p, w := c.p, c.w
	c.gemv = map[int]Func{}
	gemv, batch := w.stem()
	sizes := []int{1, 4, 8}
	name := func(b int) string { return fmt.Sprintf("%s%v%s_b%d", gemv, w.t, p.t(), b) }
	if w.layout == sparse.LayoutCSR {
		sizes = []int{1, 8}
		name = func(b int) string { return fmt.Sprintf("spmv_csr_%v%s_c%d_b%d", w.t, p.t(), w.colBits, b) }
	}
	for _, b := range sizes {
		f, err := p.fn(name(b), 0)
		if err != nil {
			return err
		}
		c.gemv[b] = f
	}
	if p.act != sparse.F16 || !w.tiled() || p.plan.MaxRows <= gemvRows {
		return nil
	}
	c.spmm, c.shared = map[int]Func{}, map[int]int{}
	for _, n := range tileColumns {
		c.shared[n] = sharedBytes[fmt.Sprintf("%s%v", batch, w.t)][n]
		f, err := p.fn(fmt.Sprintf("%s%v_n%d", batch, w.t, n), c.shared[n])
		if err != nil {
			return err
		}
		c.spmm[n] = f
	}
	packer := "pack_dense_b16"
	switch {
	case w.layout == sparse.LayoutNM24 && w.t == sparse.Int8:
		packer = "pack_nm24_b8"
	case w.layout == sparse.LayoutNM24:
		packer = "pack_nm24_b16"
	case w.t == sparse.Int8:
		packer = "pack_dense_b8"
	}
	var err error
	if c.pack, err = p.fn(packer, 0); err != nil {
		return err
	}
	if w.t == sparse.Int8 {
		c.quantise, err = p.fn("quantise_int8_f16", 0)
	}
	return err
}

// tileColumns are the activation columns (rows of the batch) of the tile kernels.
var tileColumns = []int{16, 32, 64, 128}

// sharedBytes is the dynamic shared memory of the tile kernels: stages of a weight
// and an activation tile, see kernels/tile_gemm.cuh.
var sharedBytes = map[string]map[int]int{
	"spmm_nm24_f16":  {128: 76800, 64: 69632, 32: 66560, 16: 67584},
	"spmm_nm24_int8": {128: 79872, 64: 73728, 32: 71680, 16: 73728},
	"gemm_f16":       {128: 98304, 64: 98304, 32: 81920, 16: 92160},
	"gemm_int8":      {128: 98304, 64: 98304, 32: 81920, 16: 92160},
}

func (c *linearCall) launch(rows int) error {
	if rows == 0 {
		return nil
	}
	if rows > gemvRows && c.spmm != nil {
		return c.batch(rows)
	}
	for r := 0; r < rows; r += gemvRows {
		if err := c.slice(r, min(gemvRows, rows-r)); err != nil {
			return err
		}
	}
	return nil
}

// slice runs up to gemvRows rows from row r on.
func (c *linearCall) slice(r, rows int) error {
	p, w := c.p, c.w
	b := 1
	for b < rows || c.gemv[b] == nil {
		b++
	}
	es := Ptr(elementBits(p.act) / 8)
	at := func(a Ptr, l int32) Ptr {
		if a == 0 {
			return 0
		}
		return a + Ptr(r)*Ptr(l)*es
	}
	y, x, res := at(c.y, c.ldy), at(c.x, c.ldx), at(c.res, c.ldr)
	var scale, gscale Ptr
	if w.t == sparse.Int4 {
		gscale = w.scale
	} else {
		scale = w.scale
	}
	n, out, in := int32(rows), int32(w.rows), int32(w.in)
	block := [3]int{128, 1, 1}
	if w.rows == 0 {
		return nil
	}
	switch w.layout {
	case sparse.LayoutCSR:
		return p.d.Launch(c.gemv[b], [3]int{blocks(w.rows, 4), 1, 1}, block, 0, y, x, w.rowptr, w.meta, w.values, scale, c.bias, res,
			n, out, c.ldy, c.ldx, c.ldr, int32(0))
	case sparse.LayoutNM24:
		return p.d.Launch(c.gemv[b], [3]int{blocks(w.rows, 8), 1, 1}, block, 0, y, x, w.values, w.meta, gscale, scale, c.bias, res,
			n, out, in, c.ldy, c.ldx, int32(w.ld), int32(w.ldm), int32(w.lds), int32(w.shift), c.ldr, int32(0))
	}
	return p.d.Launch(c.gemv[b], [3]int{blocks(w.rows, 8), 1, 1}, block, 0, y, x, w.values, gscale, scale, c.bias, res,
		n, out, in, c.ldy, c.ldx, int32(w.ld), int32(w.lds), int32(w.shift), c.ldr, int32(0))
}

// batch repacks the weight into the scratch tiles and multiplies on tensor cores.
func (c *linearCall) batch(rows int) error {
	p, w := c.p, c.w
	mt, kt := w.form().Counts(w.rows, w.in)
	out, in := int32(w.rows), int32(w.in)
	grid := [3]int{kt, mt, 1}
	var err error
	if w.layout == sparse.LayoutNM24 {
		err = p.d.Launch(c.pack, grid, [3]int{128, 1, 1}, 0, p.tile, w.values, w.meta, out, in, int32(w.ld), int32(w.ldm))
	} else {
		err = p.d.Launch(c.pack, grid, [3]int{128, 1, 1}, 0, p.tile, w.values, out, in, int32(w.ld))
	}
	if err != nil {
		return err
	}
	x, ldx, tok := c.x, c.ldx, Ptr(0)
	if w.t == sparse.Int8 {
		ldx = int32(up(w.in, 16))
		if err := p.d.Launch(c.quantise, [3]int{rows, 1, 1}, [3]int{256, 1, 1}, 0, p.codes, p.codesS, c.x, in, ldx, c.ldx); err != nil {
			return err
		}
		x, tok = p.codes, p.codesS
	}
	n := tileColumns[len(tileColumns)-1]
	for _, t := range tileColumns {
		if rows <= t {
			n = t
			break
		}
	}
	return p.d.Launch(c.spmm[n], [3]int{blocks(w.rows, 128), blocks(rows, n), 1}, [3]int{tileThreads, 1, 1}, c.shared[n],
		c.y, x, p.tile, Ptr(0), tok, w.scale, c.bias, c.res, int32(rows), out, in, c.ldy, ldx, c.ldr, int32(0))
}
