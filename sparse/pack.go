package sparse

import (
	"fmt"
	"math"
)

// Pack stores m in the given layout and type. Quantised types take a symmetric
// scale, absmax/127 (int8) or absmax/7 (int4), per group of dense columns; group
// 0 is the whole row. Zero is exact in every type. Packing to NM24 fails with
// ErrPattern when a group of 4 has more than 2 nonzeros: it never drops a weight.
// Codes and scales that m has in that type and those groups are taken as they are.
func Pack(m Matrix, layout Layout, t DType, group int) (Matrix, error) {
	rows, cols := m.Dims()
	p := packer{r: rows, c: cols, t: t, group: group}
	if t.Quantised() {
		if t == FP8 {
			return nil, fmt.Errorf("sparse: packing to %v: %w", t, ErrType)
		}
		codes, q, err := Codes(m, t, group)
		if err != nil {
			return nil, err
		}
		if q != nil {
			m, p.q, p.ready = codes, q, true
		} else {
			p.q = &Quant{Group: group, Type: F32}
			p.q.Scales = make([]float32, rows*p.q.Groups(cols))
		}
	}
	switch layout {
	case LayoutDense:
		return p.dense(m)
	case LayoutNM24:
		return p.nm24(m)
	case LayoutBitmask:
		return p.bitmask(m)
	case LayoutCSR:
		return p.csr(m)
	}
	return nil, fmt.Errorf("sparse: packing to %v: %w", layout, ErrFormat)
}

type packer struct {
	r, c  int
	t     DType
	group int
	q     *Quant
	ready bool // rows are codes already
}

// quantise turns a row into codes in place and records its scales.
func (p *packer) quantise(r int, row []float32) error {
	if p.q == nil || p.ready {
		return nil
	}
	limit := float32(127)
	if p.t == Int4 {
		limit = 7
	}
	ng := p.q.Groups(p.c)
	g := p.group
	if g == 0 {
		g = max(1, p.c)
	}
	for i := range ng {
		seg := row[min(i*g, len(row)):min((i+1)*g, len(row))]
		scale, err := QuantiseSymmetric(seg, limit)
		if err != nil {
			return fmt.Errorf("sparse: row %d: %w", r, err)
		}
		p.q.Scales[r*ng+i] = scale
	}
	return nil
}

// QuantiseSymmetric replaces x by integer codes in [-limit, limit], rounded to
// nearest even, and returns the scale: x ~ code*scale. All zero gives scale 0.
func QuantiseSymmetric(x []float32, limit float32) (float32, error) {
	var amax float32
	for _, v := range x {
		if a := float32(math.Abs(float64(v))); a > amax || a != a {
			amax = a
		}
	}
	if amax == 0 {
		return 0, nil
	}
	if math.IsNaN(float64(amax)) || math.IsInf(float64(amax), 0) {
		return 0, fmt.Errorf("cannot quantise %v: %w", amax, ErrFormat)
	}
	scale := amax / limit
	inv := 1 / scale
	if math.IsInf(float64(inv), 0) { // subnormal scale: the weights are as good as zero
		clear(x)
		return 0, nil
	}
	for i, v := range x {
		x[i] = max(-limit, min(limit, float32(math.RoundToEven(float64(v*inv)))))
	}
	return scale, nil
}

func (p *packer) dense(m Matrix) (Matrix, error) {
	ld := stride(p.t, p.c)
	v, err := MakeValues(p.t, p.r*ld)
	if err != nil {
		return nil, err
	}
	d := &Dense{R: p.r, C: p.c, Values: v, Quant: p.q}
	if p.t == F32 {
		return d, m.ReadRows(v.F32, 0)
	}
	return d, EachRow(m, func(r int, row []float32) error {
		if err := p.quantise(r, row); err != nil {
			return err
		}
		for c, x := range row {
			v.Set(r*ld+c, x)
		}
		return nil
	})
}

func (p *packer) nm24(m Matrix) (Matrix, error) {
	n := &NM24{R: p.r, C: p.c, Quant: p.q}
	ng := n.Groups()
	ld := stride(p.t, 2*ng)
	v, err := MakeValues(p.t, p.r*ld)
	if err != nil {
		return nil, err
	}
	n.Values = v
	n.Meta = make([]byte, p.r*n.MetaStride())
	if ng%2 != 0 { // the unused last nibble stays legal
		for r := range p.r {
			n.Meta[(r+1)*n.MetaStride()-1] = 0xE0
		}
	}
	return n, EachRow(m, func(r int, row []float32) error {
		// The index pairs come from the weights, not from codes that may round to zero.
		for g := range ng {
			grp := row[4*g : min(4*g+4, p.c)]
			i0, i1, ok := Keep24(grp)
			if !ok {
				return fmt.Errorf("sparse: row %d columns %d..%d: more than 2 of 4 are nonzero: %w", r, 4*g, 4*g+len(grp)-1, ErrPattern)
			}
			n.Meta[r*n.MetaStride()+g/2] |= byte(i0|i1<<2) << (4 * (g & 1))
		}
		if err := p.quantise(r, row); err != nil {
			return err
		}
		for g := range ng {
			nib := n.Nibble(r, g)
			for k, i := range [2]int{int(nib & 3), int(nib >> 2)} {
				if c := 4*g + i; c < p.c {
					v.Set(r*ld+2*g+k, row[c])
				}
			}
		}
		return nil
	})
}

// collect gathers the nonzeros of every row in order and tells mark where each
// stands. A code may round to zero where the weight did not: it stays stored.
func (p *packer) collect(m Matrix, ptr []int64, mark func(r, c int)) (Values, error) {
	var f []float32
	var cols []int
	err := EachRow(m, func(r int, row []float32) error {
		cols = cols[:0]
		for c, x := range row {
			if x != 0 {
				cols = append(cols, c)
				mark(r, c)
			}
		}
		ptr[r+1] = ptr[r] + int64(len(cols))
		if err := p.quantise(r, row); err != nil {
			return err
		}
		for _, c := range cols {
			f = append(f, row[c])
		}
		return nil
	})
	if err != nil {
		return Values{}, err
	}
	v, err := MakeValues(p.t, len(f))
	if err != nil {
		return v, err
	}
	for i, x := range f {
		v.Set(i, x)
	}
	return v, nil
}

func (p *packer) bitmask(m Matrix) (Matrix, error) {
	b := &Bitmask{R: p.r, C: p.c, RowPtr: make([]int64, p.r+1), Quant: p.q}
	bs := b.BitStride()
	b.Bits = make([]byte, p.r*bs)
	v, err := p.collect(m, b.RowPtr, func(r, c int) { b.Bits[r*bs+c/8] |= 1 << (c % 8) })
	b.Values = v
	return b, err
}

func (p *packer) csr(m Matrix) (Matrix, error) {
	s := &CSR{R: p.r, C: p.c, RowPtr: make([]int64, p.r+1), Quant: p.q}
	mark := func(_, c int) { s.Col16 = append(s.Col16, uint16(c)) }
	if p.c > 1<<16 {
		mark = func(_, c int) { s.Col32 = append(s.Col32, uint32(c)) }
	}
	v, err := p.collect(m, s.RowPtr, mark)
	s.Values = v
	return s, err
}
