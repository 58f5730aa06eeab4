package cpu

import (
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// portable is the reference of every Linear kernel: the canonical form of the
// weight, unpacked actGroup columns at a time and multiplied in plain Go.
type portable struct {
	rows, cols int
	m          sparse.Matrix
	v          sparse.Values
	q          *sparse.Quant
	act8       bool
}

func portablePacker(k runtime.Kernel) packFunc {
	return func(m sparse.Matrix, group int, _ *scratch) (packed, error) {
		d, q, err := takeZeros(m, k, group)
		if err != nil {
			return nil, err
		}
		var c sparse.Matrix = d
		if q != nil {
			d.Quant = q // d is a copy
		} else if c, err = sparse.Pack(m, k.Layout, k.Weight, group); err != nil {
			return nil, err
		}
		p := &portable{m: c, act8: k.Act == sparse.Int8}
		p.rows, p.cols = c.Dims()
		switch c := c.(type) {
		case *sparse.Dense:
			p.v, p.q = c.Values, c.Quant
		case *sparse.NM24:
			p.v, p.q = c.Values, c.Quant
		case *sparse.Bitmask:
			p.v, p.q = c.Values, c.Quant
		case *sparse.CSR:
			p.v, p.q = c.Values, c.Quant
		}
		return p, nil
	}
}

func (p *portable) bytes() sparse.Bytes { return p.m.Bytes() }
func (p *portable) rowBlock() int       { return 1 }

func (p *portable) form() form {
	if p.act8 {
		return formInt8
	}
	return formRows
}

func (p *portable) clone() (packed, error) { return p, nil }
func (p *portable) free()                  {}

func (p *portable) readRow(dst []float32, r int) { _ = p.m.ReadRows(dst, r) }

// codes is a run of a row's columns: stored numbers, zero where none is stored.
type codes [actGroup]float32

// first is where the stored values of row r start.
func (p *portable) first(r int) int {
	switch m := p.m.(type) {
	case *sparse.Bitmask:
		return int(m.RowPtr[r])
	case *sparse.CSR:
		return int(m.RowPtr[r])
	case *sparse.NM24:
		return r * slots(p.v.Type, 2*m.Groups())
	}
	return r * slots(p.v.Type, p.cols)
}

// slots is the number of values that n stored ones of a row take up: int4 rows
// start on whole bytes.
func slots(t sparse.DType, n int) int {
	if t == sparse.Int4 {
		return (n + 1) &^ 1
	}
	return n
}

// expand unpacks columns c0..c0+n-1 of row r, whose values start at k, and returns
// where the next columns' start.
func (p *portable) expand(w *codes, r, c0, n, k int) int {
	switch m := p.m.(type) {
	case *sparse.Dense:
		for i := range n {
			w[i] = p.v.At(k + i)
		}
		return k + n
	case *sparse.NM24:
		clear(w[:])
		for g := c0 / 4; 4*g < c0+n; g++ {
			nib := m.Nibble(r, g)
			w[4*g-c0+int(nib&3)] = p.v.At(k)
			w[4*g-c0+int(nib>>2)] = p.v.At(k + 1)
			k += 2
		}
	case *sparse.Bitmask:
		clear(w[:])
		for i := range n {
			if c := c0 + i; m.Bits[r*m.BitStride()+c/8]>>(c%8)&1 != 0 {
				w[i] = p.v.At(k)
				k++
			}
		}
	case *sparse.CSR:
		clear(w[:])
		for k < int(m.RowPtr[r+1]) && m.Col(k) < c0+n {
			w[m.Col(k)-c0] = p.v.At(k)
			k++
		}
	}
	return k
}

// mul implements packed. Sums are kept in float64.
func (p *portable) mul(out []float32, ld int, x *acts, e epilogue, r0, r1 int) {
	const tile = 16 // rows of x that share the unpacked weights
	var w codes
	for t0 := 0; t0 < x.rows; t0 += tile {
		t1 := min(t0+tile, x.rows)
		for r := r0; r < r1; r++ {
			var sum [tile]float64
			k := p.first(r)
			for c0 := 0; c0 < p.cols; c0 += actGroup {
				n := min(actGroup, p.cols-c0)
				k = p.expand(&w, r, c0, n, k)
				for t := t0; t < t1; t++ {
					sum[t-t0] += p.dot(&w, x, r, t, c0, n)
				}
			}
			for t := t0; t < t1; t++ {
				o := &out[t*ld+r]
				y := float32(sum[t-t0])
				if e.bias != nil {
					y += e.bias[r]
				}
				if e.add {
					y += *o
				}
				*o = y
			}
		}
	}
}

// dot is the product of n columns from c0 on.
func (p *portable) dot(w *codes, x *acts, r, t, c0, n int) float64 {
	var sum float64
	for i := 0; i < n; {
		// Up to the end of the weight's scale group.
		end := n
		scale, zero := float32(1), float32(0)
		if p.q != nil {
			if g := p.q.Group; g > 0 {
				end = min(n, (c0+i)/g*g+g-c0)
			}
			scale, zero = p.q.Scale(r, c0+i, p.cols)
		}
		var part float64
		if p.act8 {
			var isum int32
			for j, q := range x.q[t*x.qld+c0+i : t*x.qld+c0+end] {
				isum += int32(w[i+j]-zero) * int32(q)
			}
			part = float64(isum) * float64(x.scale[t*(x.qld/actGroup)+c0/actGroup])
		} else {
			for j, v := range x.f32[t*x.cols+c0+i : t*x.cols+c0+end] {
				part += float64(w[i+j]-zero) * float64(v)
			}
		}
		sum += part * float64(scale)
		i = end
	}
	return sum
}
