package cuda

import (
	"encoding/binary"
	"fmt"

	"github.com/sparserun/sparserun/cuda/tile"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// Sizes of the tensor-core kernels, see kernels/tile_gemm.cuh.
const (
	tileThreads = 128
	tileOutputs = 128 // of a block
	// splitTiles is the least number of k-tiles that a block is worth starting for.
	splitTiles = 2
)

// tileColumns are the rows of a batch that a block multiplies: the smallest that
// holds them all, or several blocks of the largest.
var (
	tileColumns    = []int{16, 32, 64, 128}
	bitmaskColumns = []int{16, 64, 128}
)

// sharedBytes is the dynamic shared memory of the tile kernels: stages of a weight
// and an activation tile.
var sharedBytes = map[string]map[int]int{
	"spmm_nm24_f16":  {128: 76800, 64: 69632, 32: 66560, 16: 67584},
	"spmm_nm24_bf16": {128: 76800, 64: 69632, 32: 66560, 16: 67584},
	"spmm_nm24_int8": {128: 79872, 64: 73728, 32: 71680, 16: 73728},
	"spmm_nm24_int4": {128: 67584, 64: 46080, 32: 37120, 16: 32256},
	"gemm_f16":       {128: 98304, 64: 98304, 32: 81920, 16: 92160},
	"gemm_bf16":      {128: 98304, 64: 98304, 32: 81920, 16: 92160},
	"gemm_int8":      {128: 98304, 64: 98304, 32: 81920, 16: 92160},
	"gemm_int4":      {128: 67584, 64: 50176, 32: 42240, 16: 38400},
}

// tiled reports whether a Linear's weight is kept in tensor-core tiles, its only
// form on the device, which then serves decoding and batches alike. The static gates
// say why: the tile kernels of 16 rows take 0.02 to 0.22 issue cycles a weight byte, the
// row-major ones 0.05 to 0.38, and memory allows 0.30. Row-major stay float32 weights,
// programs that never see more than 8 rows (except int4, which then is not bound by
// memory), and what no tile holds: odd widths of float16 activations, int4 in narrow
// groups, and CSR.
func (p *program) tiled(k runtime.Kernel, in, group int) bool {
	if p.act != sparse.F16 {
		return false
	}
	switch {
	case k.Layout == sparse.LayoutBitmask:
		return true // no other kernel reads it
	case p.rowMajor:
	case k.Layout == sparse.LayoutDense, k.Layout == sparse.LayoutNM24:
		small := p.plan.MaxRows <= gemvRows
		switch k.Weight {
		case sparse.F16:
			return !small && in%8 == 0
		case sparse.BF16, sparse.Int8: // their activations are converted, and padded with it
			return !small
		case sparse.Int4:
			return in%8 == 0 && (group == 0 || group >= in || group%64 == 0)
		}
	}
	return false
}

// uploadTiles stores a weight in tiles. Types of 8 and 16 bits are packed on the
// device from row-major staging; int4, whose tiles hold the scales of their groups,
// and bitmaps on the host.
func (p *program) uploadTiles(m sparse.Matrix, k runtime.Kernel, group int) (*weight, error) {
	packed, err := sparse.Pack(m, k.Layout, k.Weight, group)
	if err != nil {
		return nil, err
	}
	rows, in := m.Dims()
	w := &weight{layout: k.Layout, t: k.Weight, rows: rows, in: in, tiled: true, bytes: packed.Bytes()}
	var q *sparse.Quant
	switch x := packed.(type) {
	case *sparse.Dense:
		q, w.nonzeros = x.Quant, int64(rows)*int64(in)
	case *sparse.NM24:
		q, w.nonzeros = x.Quant, int64(rows)*int64(2*x.Groups())
	case *sparse.Bitmask:
		w.nonzeros = x.RowPtr[rows]
		return w, p.putBitmask(w, packed)
	default:
		return nil, fmt.Errorf("cuda: layout %v: %w", k.Layout, sparse.ErrType)
	}
	form := tile.Form{NM24: k.Layout == sparse.LayoutNM24, Type: k.Weight}
	_, w.kt = form.Counts(rows, in)
	if k.Weight == sparse.Int4 {
		t, err := tile.Pack(packed)
		if err != nil {
			return nil, fmt.Errorf("cuda: %w", err)
		}
		return w, p.put(w, &w.values, t.Data)
	}
	if err := p.packTiles(w, form, packed); err != nil {
		return nil, err
	}
	if q != nil {
		return w, p.putScales(w, q)
	}
	return w, nil
}

// packTiles copies a row-major matrix to the staging memory and has the device pack it.
func (p *program) packTiles(w *weight, form tile.Form, packed sparse.Matrix) error {
	var values, meta []byte
	var ldv, ldm int
	op := "pack_dense_b"
	switch x := packed.(type) {
	case *sparse.Dense:
		ldv = w.in
		values = padRows(x.Values, w.rows, w.in, ldv)
	case *sparse.NM24:
		op = "pack_nm24_b"
		ldv, ldm = 2*x.Groups(), (w.in+15)/16
		values, meta = padRows(x.Values, w.rows, ldv, ldv), padMeta(x, ldm)
	}
	var err error
	if w.values, err = p.alloc(int64(form.Size(w.rows, w.in))); err != nil {
		return err
	}
	w.addresses = append(w.addresses, w.values)
	at := up(len(values), poolAlign)
	stage, err := p.stage(int64(at + len(meta)))
	if err != nil {
		return err
	}
	if err := p.d.HtoD(stage, values); err != nil {
		return err
	}
	args := []any{w.values, stage}
	if meta != nil {
		if err := p.d.HtoD(stage+Ptr(at), meta); err != nil {
			return err
		}
		args = append(args, stage+Ptr(at))
	}
	args = append(args, int32(w.rows), int32(w.in), int32(ldv))
	if meta != nil {
		args = append(args, int32(ldm))
	}
	f, err := p.fn(fmt.Sprint(op, elementBits(w.t)), 0)
	if err != nil {
		return err
	}
	mt, kt := form.Counts(w.rows, w.in)
	return p.d.Launch(f, [3]int{kt, mt, 1}, [3]int{128, 1, 1}, 0, args...)
}

// stage is memory that lives until Compile ends, of n bytes at least: that of the
// largest layer, so that it is taken once.
func (p *program) stage(n int64) (Ptr, error) {
	if n <= p.stageBytes {
		return p.staging, nil
	}
	for i := range p.plan.Steps {
		s := &p.plan.Steps[i]
		if s.Node.Op != model.OpLinear || s.Kernel.Layout == sparse.LayoutBitmask || s.Kernel.Weight == sparse.Int4 {
			continue
		}
		rows, in := s.Node.Weight.Data.Dims()
		if form := (tile.Form{NM24: s.Kernel.Layout == sparse.LayoutNM24, Type: s.Kernel.Weight}); p.tiled(s.Kernel, in, 0) {
			n = max(n, int64(form.Size(rows, in))+poolAlign)
		}
	}
	if err := p.freeStage(); err != nil {
		return 0, err
	}
	a, err := p.d.Alloc(n)
	if err != nil {
		return 0, err
	}
	p.staging, p.stageBytes = a, n
	return a, nil
}

func (p *program) freeStage() error {
	if p.stageBytes == 0 {
		return nil
	}
	p.stageBytes = 0
	return p.d.Free(p.staging)
}

func (p *program) putBitmask(w *weight, m sparse.Matrix) error {
	b, err := tile.PackBitmask(m, w.t)
	if err != nil {
		return fmt.Errorf("cuda: %w", err)
	}
	w.kt, w.maxTile = (w.in+63)/64, b.Max
	if err := p.put(w, &w.values, b.Data); err != nil {
		return err
	}
	offset := make([]byte, 0, 4*len(b.Offset))
	for _, o := range b.Offset {
		offset = binary.LittleEndian.AppendUint32(offset, o)
	}
	return p.put(w, &w.meta, offset)
}

// columns are the sizes that the kernels of w come in.
func (w *weight) columns() []int {
	if w.layout == sparse.LayoutBitmask {
		return bitmaskColumns
	}
	return tileColumns
}

// cut is how a batch is cut into blocks: x times y tiles of 128 outputs and n rows,
// the sum over k split over several blocks each.
type cut struct{ n, x, y, splits int }

// cut splits k where a batch has too few tiles for the device: two blocks a
// multiprocessor is what the kernels' shared memory lets run at once.
func (w *weight) cut(rows, sms int) cut {
	sizes := w.columns()
	c := cut{n: sizes[len(sizes)-1], splits: 1}
	for _, n := range sizes {
		if rows <= n {
			c.n = n
			break
		}
	}
	c.x, c.y = blocks(w.rows, tileOutputs), blocks(rows, c.n)
	if most := min(2*sms/max(1, c.x*c.y), blocks(w.kt, splitTiles)); most > 1 {
		c.splits = blocks(w.kt, blocks(w.kt, most)) // no split without work
	}
	return c
}

// splitBytes is what the sums of a split batch occupy.
func (c cut) splitBytes() int64 {
	if c.splits == 1 {
		return 0
	}
	return int64(c.x) * int64(c.y) * int64(c.splits) * int64(c.n) * tileOutputs * 4
}

// converted reports what a weight's kernels want instead of float16 activations:
// the kernel that makes it and the elements of its rows. "" where nothing is needed.
func (w *weight) converted() (kernel string, wide int) {
	switch {
	case w.t == sparse.Int8:
		return "quantise_int8_f16", up(w.in, 16)
	case w.t == sparse.BF16:
		return "round_bf16_f16", ld(w.in)
	case w.in%8 != 0:
		return "round_f16_f16", ld(w.in) // whole 16-byte pieces, zeros behind the row
	}
	return "", 0
}

// scratch reserves what all tile products share: the sums of split ones and their
// tickets, and converted activations.
func (p *program) scratch() error {
	rows := max(p.plan.MaxRows, p.plan.MaxSelect)
	var split, tickets, codes, scales int64
	for _, w := range p.weights {
		if w == nil || !w.tiled {
			continue
		}
		for r := 1; r <= rows; r++ {
			c := w.cut(r, p.b.info.SMs)
			split = max(split, c.splitBytes())
			if c.splits > 1 {
				tickets = max(tickets, 4*int64(c.x)*int64(c.y))
			}
		}
		if k, wide := w.converted(); k != "" {
			bits := 16
			if w.t == sparse.Int8 {
				bits, scales = 8, 4*int64(rows)
			}
			codes = max(codes, int64(rows)*int64(wide)*int64(bits)/8)
		}
	}
	for _, x := range []struct {
		at *Ptr
		n  int64
	}{{&p.sums, split}, {&p.tickets, tickets}, {&p.codes, codes}, {&p.codesS, scales}} {
		if x.n == 0 {
			continue
		}
		var err error
		if *x.at, err = p.alloc(x.n); err != nil {
			return err
		}
		p.workspace += x.n
	}
	if tickets > 0 { // every launch leaves them zero
		return p.d.Memset8(p.tickets, 0, tickets)
	}
	return nil
}

// tileCall is a Linear on tensor cores, its kernels by rows of a block.
type tileCall struct {
	linearCall
	kernels map[int]Func
	shared  map[int]int
	convert Func // nil: x is read as it is
	fresh   bool // this step converts x; else an earlier one did
	wide    int  // elements of a row of what the kernel reads
}

func (c *tileCall) find() error {
	p, w := c.p, c.w
	c.kernels, c.shared = map[int]Func{}, map[int]int{}
	op := map[sparse.Layout]string{sparse.LayoutDense: "gemm_", sparse.LayoutNM24: "spmm_nm24_", sparse.LayoutBitmask: "spmm_bitmask_"}[w.layout]
	op += w.t.String()
	var err error
	for _, n := range w.columns() {
		c.shared[n] = sharedBytes[op][n]
		if w.layout == sparse.LayoutBitmask {
			c.shared[n] = max(2*8192+2*(n*128+2*w.maxTile), n*(tileOutputs+4)*4)
		}
		if c.kernels[n], err = p.fn(fmt.Sprintf("%s_n%d", op, n), c.shared[n]); err != nil {
			return err
		}
	}
	var kernel string
	if kernel, c.wide = w.converted(); kernel == "" {
		return nil
	}
	// Linears of one input follow one another: the first of them converts it.
	c.fresh = p.alone || p.converted != c.x || p.convertedBy != kernel
	p.converted, p.convertedBy = c.x, kernel
	c.convert, err = p.fn(kernel, 0)
	return err
}

func (c *tileCall) launch(rows int) error {
	p, w := c.p, c.w
	if rows == 0 || w.rows == 0 {
		return nil
	}
	x, ldx, in, tok := c.x, c.ldx, w.in, Ptr(0)
	if c.convert != nil {
		if c.fresh {
			if err := c.prepare(rows); err != nil {
				return err
			}
		}
		x, ldx, in = p.codes, int32(c.wide), c.wide
		if w.t == sparse.Int8 {
			tok = p.codesS
		}
	}
	at := w.cut(rows, p.b.info.SMs)
	grid, block := [3]int{at.x, at.y, at.splits}, [3]int{tileThreads, 1, 1}
	out := int32(w.rows)
	if w.layout == sparse.LayoutBitmask {
		return p.d.Launch(c.kernels[at.n], grid, block, c.shared[at.n], c.y, x, w.values, w.meta, int32(w.maxTile), p.sums, p.tickets,
			Ptr(0), c.bias, c.res, int32(rows), out, int32(in), c.ldy, ldx, c.ldr, int32(0))
	}
	var scale Ptr
	if w.t == sparse.Int8 {
		scale = w.scale
	}
	return p.d.Launch(c.kernels[at.n], grid, block, c.shared[at.n], c.y, x, w.values, p.sums, p.tickets, tok,
		scale, c.bias, c.res, int32(rows), out, int32(in), c.ldy, ldx, c.ldr, int32(0))
}

// prepare converts the activations.
func (c *tileCall) prepare(rows int) error {
	p, in, wide := c.p, int32(c.w.in), int32(c.wide)
	if c.w.t == sparse.Int8 {
		return p.d.Launch(c.convert, [3]int{rows, 1, 1}, [3]int{256, 1, 1}, 0, p.codes, p.codesS, c.x, in, wide, c.ldx)
	}
	return p.d.Launch(c.convert, [3]int{blocks(c.wide, 256), rows, 1}, [3]int{256, 1, 1}, 0, p.codes, c.x, in, wide, c.ldx)
}
