package loader

import (
	"fmt"
	"slices"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// packed is a pack-quantized matrix in a file: codes u = q + 2^(bits-1) in int32
// words, least significant bits first. It implements sparse.Stored.
type packed struct {
	t     *safeTensor // [r, words]
	r, c  int
	bits  int
	dense bool // codes straddle words (0.17 and later), else whole codes a word
	quant *sparse.Quant
	gidx  []int32 // group of each column, where activation order shuffled them
}

func (m *packed) Dims() (int, int)      { return m.r, m.c }
func (m *packed) Layout() sparse.Layout { return sparse.LayoutDense }

// DType is int4 for up to 4 bits, int8 for more: the form it has in memory.
func (m *packed) DType() sparse.DType {
	if m.bits <= 4 {
		return sparse.Int4
	}
	return sparse.Int8
}

// Bytes implements sparse.Matrix.
func (m *packed) Bytes() sparse.Bytes {
	return sparse.Bytes{Values: m.t.size, Metadata: 4 * int64(len(m.gidx)), Scales: m.quant.Bytes()}
}

// words calls f with the raw words of rows r0, r0+1, ...
func (m *packed) words(r0, n int, f func(r int, raw []byte)) error {
	rb := 4 * m.t.shape[1]
	step := max(1, chunk/max(1, rb))
	for r := r0; r < r0+n; r += step {
		k := min(step, r0+n-r)
		err := m.t.src.view(m.t.off+int64(r)*int64(rb), k*rb, func(raw []byte) error {
			for i := range k {
				f(r+i, raw[i*rb:(i+1)*rb])
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// codes calls f with the signed codes of rows r0, r0+1, ...
func (m *packed) codes(r0, n int, f func(r int, q []int8)) error {
	q := make([]int8, m.c)
	return m.words(r0, n, func(r int, raw []byte) {
		unpackCodes(q, raw, m.bits, m.dense)
		f(r, q)
	})
}

// unpackCodes reads codes of the given width from little-endian words.
func unpackCodes(q []int8, raw []byte, bits int, dense bool) {
	switch bits { // the two that files have: codes never straddle a byte
	case 4:
		for j := range len(q) / 2 {
			b := raw[j]
			q[2*j], q[2*j+1] = int8(b&15)-8, int8(b>>4)-8
		}
		if n := len(q); n%2 != 0 {
			q[n-1] = int8(raw[n/2]&15) - 8
		}
		return
	case 8:
		for c, b := range raw[:len(q)] {
			q[c] = int8(b - 128)
		}
		return
	}
	per := 32 / bits
	for c := range q {
		at := c * bits
		if !dense {
			at = c/per*32 + c%per*bits
		}
		u := uint16(raw[at/8])
		if at%8+bits > 8 {
			u |= uint16(raw[at/8+1]) << 8
		}
		q[c] = int8(int(u>>(at%8)&(1<<bits-1)) - 1<<(bits-1))
	}
}

// ReadRows implements sparse.Matrix.
func (m *packed) ReadRows(dst []float32, r0 int) error {
	n, err := checkRead(m.t.name, m.r, m.c, len(dst), r0)
	if err != nil || n == 0 {
		return err
	}
	return m.codes(r0, n, func(r int, q []int8) {
		row := dst[(r-r0)*m.c : (r-r0+1)*m.c]
		for c, v := range q {
			row[c] = float32(v)
		}
		if m.gidx == nil {
			scaleRow(m.quant, row, r)
			return
		}
		ng := m.quant.Groups(m.c)
		for c := range row {
			i := r*ng + int(m.gidx[c])
			z := float32(0)
			if m.quant.Zeros != nil {
				z = float32(m.quant.Zeros[i])
			}
			row[c] = (row[c] - z) * m.quant.Scales[i]
		}
	})
}

// Load implements sparse.Stored: int4 or int8, or f32 where columns are shuffled.
func (m *packed) Load() (sparse.Matrix, error) {
	if m.gidx != nil {
		x, err := sparse.Read(m)
		return sparse.NewDense(m.r, m.c, x), err
	}
	t := m.DType()
	ld := m.c
	if t == sparse.Int4 {
		ld = (m.c + 1) &^ 1
	}
	v, err := sparse.MakeValues(t, m.r*ld)
	if err != nil {
		return nil, err
	}
	d := &sparse.Dense{R: m.r, C: m.c, Values: v, Quant: m.quant}
	if m.bits == 4 { // the words, read as bytes, are this package's form already
		half := ld / 2
		return d, m.words(0, m.r, func(r int, raw []byte) {
			row := v.Q[r*half : (r+1)*half]
			copy(row, raw)
			if m.c%2 != 0 {
				row[half-1] = row[half-1]&15 | 0x80 // no code in the slot beyond the row: zero
			}
		})
	}
	return d, m.codes(0, m.r, func(r int, q []int8) {
		for c, x := range q {
			if i := r*ld + c; t == sparse.Int8 {
				v.Q[i] = byte(x)
			} else {
				s := 4 * (i & 1)
				v.Q[i/2] = v.Q[i/2]&^(15<<s) | byte(x+8)<<s
			}
		}
	})
}

// packed builds a weight from <mod>.weight_packed and its siblings.
func (m *modules) packed(mod string, t *safeTensor) (*model.Weight, error) {
	m.used[t.name] = true
	dims := m.part(mod, ctDims)
	if dims == nil {
		return nil, t.fail(ErrSparse, "packed weight without "+mod+ctDims, nil, nil)
	}
	d, err := dims.ints(2)
	if err != nil {
		return nil, err
	}
	if len(d) != 2 || d[0] < 1 || d[1] < 1 || d[0] > 1<<31 || d[1] > 1<<31 || len(t.shape) != 2 || t.t != sparse.Int32 {
		return nil, t.fail(ErrSparse, "packed weight", "I32 [rows words] and a shape of two", fmt.Sprint(t.t, t.shape, d))
	}
	sch := m.cfg.scheme(mod)
	p := &packed{t: t, r: int(d[0]), c: int(d[1]), bits: sch.bits}
	if p.bits == 0 {
		return nil, t.fail(ErrConfig, "packed weight", "a config_group that names its bits", nil)
	}
	per := 32 / p.bits
	old, dense := (p.c+per-1)/per, (p.c*p.bits+31)/32
	switch words := t.shape[1]; {
	case t.shape[0] != p.r || (words != old && words != dense):
		return nil, t.fail(ErrSparse, "packed shape", fmt.Sprintf("[%d %d] or [%d %d] for [%d %d] of %d bits", p.r, old, p.r, dense, p.r, p.c, p.bits), fmt.Sprint(t.shape))
	case old == dense:
		p.dense = m.cfg.newPack
	default:
		p.dense = words == dense
	}
	var zeros []int8
	if z := m.byName[mod+ctZero]; z != nil && z.t == sparse.Int32 && sch.asym {
		m.used[z.name] = true
		if zeros, err = p.zeros(z, m.cfg.newPack); err != nil {
			return nil, err
		}
	} else if sch.asym {
		return nil, t.fail(ErrSparse, "asymmetric weight without packed zero points", nil, nil)
	}
	if p.quant, err = m.scales(mod, p.r, p.c, zeros); err != nil {
		return nil, err
	}
	if zeros != nil && len(zeros) != len(p.quant.Scales) {
		return nil, t.fail(ErrSparse, "number of zero points", len(p.quant.Scales), len(zeros))
	}
	if g := m.part(mod, ctIndex); g != nil {
		if err := p.order(g); err != nil {
			return nil, err
		}
	}
	m.count.weights += int64(p.r) * int64(p.c)
	m.count.maybeZero += int64(p.r) * int64(p.c)
	return &model.Weight{Name: mod + ".weight", Shape: []int{p.r, p.c}, Data: p}, nil
}

// zeros unpacks zero points, which are packed along the rows: [words, groups].
func (m *packed) zeros(z *safeTensor, newPack bool) ([]int8, error) {
	if len(z.shape) != 2 {
		return nil, z.fail(ErrSparse, "shape of packed zero points", "[words groups]", fmt.Sprint(z.shape))
	}
	words, groups := z.shape[0], z.shape[1]
	per := 32 / m.bits
	old, dense := (m.r+per-1)/per, (m.r*m.bits+31)/32
	if (words != old && words != dense) || groups < 1 || groups > m.c {
		return nil, z.fail(ErrSparse, "shape of packed zero points", fmt.Sprintf("[%d groups]", old), fmt.Sprint(z.shape))
	}
	straddle := words == dense && (words != old || newPack)
	b, err := z.bytes()
	if err != nil {
		return nil, err
	}
	out := make([]int8, m.r*groups)
	col := make([]byte, 4*words)
	q := make([]int8, m.r)
	for g := range groups {
		for w := range words {
			copy(col[4*w:4*w+4], b[4*(w*groups+g):])
		}
		unpackCodes(q, col, m.bits, straddle)
		for r, v := range q {
			out[r*groups+g] = v
		}
	}
	return out, nil
}

// order reads the group of each column; one that is only c/group says nothing.
func (m *packed) order(g *safeTensor) error {
	v, err := g.ints(m.c)
	if err != nil {
		return err
	}
	n := m.quant.Groups(m.c)
	if len(v) != m.c {
		return g.fail(ErrSparse, "length", m.c, len(v))
	}
	if v[0] == -1 || m.quant.Group == 0 { // not used
		return nil
	}
	idx := make([]int32, m.c)
	plain := make([]int32, m.c)
	for c, x := range v {
		if x < 0 || x >= int64(n) {
			return g.fail(ErrSparse, fmt.Sprint("group of column ", c), fmt.Sprint("0 to ", n-1), x)
		}
		idx[c], plain[c] = int32(x), int32(c/m.quant.Group)
	}
	if !slices.Equal(idx, plain) {
		m.gidx = idx
	}
	return nil
}
