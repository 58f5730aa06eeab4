package cpu

import (
	"fmt"
	"math"
	"slices"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// takeCodes is m as codes and scales where it is stored in the type and groups that
// it is to run in, otherwise m itself.
func takeCodes(m sparse.Matrix, t sparse.DType, group int) (sparse.Matrix, *sparse.Quant, error) {
	if !t.Quantised() {
		return m, nil, nil
	}
	codes, q, err := sparse.Codes(m, t, group)
	if q == nil || err != nil {
		return m, nil, err
	}
	return codes, q, nil
}

// takeZeros is m as codes, scales and zero points where kernel k runs them as they are
// stored: dense int4, zero points that with 8 added are bytes.
func takeZeros(m sparse.Matrix, k runtime.Kernel, group int) (*sparse.Dense, *sparse.Quant, error) {
	if k.Weight != sparse.Int4 || k.Layout != sparse.LayoutDense {
		return nil, nil, nil
	}
	codes, q, err := sparse.ZeroCodes(m, k.Weight, group)
	d, ok := codes.(*sparse.Dense) // elsewhere what is not stored is no code
	if err != nil || !ok || slices.Min(q.Zeros) < -8 {
		return nil, nil, err
	}
	return d, q, nil
}

// quantise turns a block into codes and scales: of rows, and relative to them of
// groups. dense columns per scale are p.group, so 2:4 has half as many kept ones.
func (p *tilePacker) quantise(f []float32, ld, b int) error {
	p.code = grow(p.code, p.block*ld)
	if p.shape.group > 0 {
		p.rel = grow(p.rel, p.block*p.groups())
		clear(p.rel)
		p.zero = grow(p.zero, p.block*p.groups())
		clear(p.zero)
	}
	limit := float32(127)
	if p.typ == sparse.Int4 {
		limit = 7
	}
	scales := p.scale[b*p.block : (b+1)*p.block]
	for r := range p.block {
		row, code := f[r*ld:(r+1)*ld], p.code[r*ld:(r+1)*ld]
		if p.stored != nil {
			for i, x := range row {
				code[i] = int8(x)
			}
			p.storedScales(&scales[r], r, b*p.block+r)
			continue
		}
		amax := absMax(row)
		if math.IsNaN(float64(amax)) || math.IsInf(float64(amax), 0) {
			return fmt.Errorf("row %d: cannot quantise %v: %w", b*p.block+r, amax, sparse.ErrFormat)
		}
		scales[r] = amax / limit
		if p.shape.group == 0 {
			quantCodes(code, row, inverse(scales[r]))
			continue
		}
		p.quantiseGroups(row, code, p.rel[r*p.groups():(r+1)*p.groups()], scales[r], limit)
	}
	return nil
}

// groups is the half-precision scales of a row.
func (p *tilePacker) groups() int { return p.chunks * p.chunk / p.shape.group }

// storedScales takes the scales and zero points of a row of a stored matrix over. Half precision
// holds those of its groups exactly, beside a power of two for the row, unless
// they were stored in float32 with more bits.
func (p *tilePacker) storedScales(scale *float32, r, row int) {
	if row >= p.rows {
		return
	}
	n := p.stored.Groups(p.cols)
	all := p.stored.Scales[row*n : (row+1)*n]
	if p.shape.group == 0 {
		*scale = all[0]
		return
	}
	rel := p.rel[r*p.groups() : (r+1)*p.groups()]
	for g := range rel {
		if c := g * p.shape.group; p.zeros && c < p.cols {
			_, z := p.stored.Scale(row, c, p.cols)
			p.zero[r*p.groups()+g] = byte(int(z) + 8)
		}
	}
	if n == 1 {
		*scale = all[0]
		for g := range rel {
			rel[g] = 0x3c00 // 1
		}
		return
	}
	var most float32
	for _, s := range all {
		most = max(most, float32(math.Abs(float64(s))))
	}
	_, exp := math.Frexp(float64(most))
	*scale = float32(math.Ldexp(1, max(exp-15, -126))) // the largest becomes 2^14..2^15
	for g := range rel {
		if c := g * p.shape.group; c < p.cols {
			s, _ := p.stored.Scale(row, c, p.cols)
			rel[g] = sparse.F32ToF16(s / *scale)
		}
	}
}

// inverse is 1/s, 0 where that is infinite: weights so small are as good as zero.
func inverse(s float32) float32 {
	if inv := 1 / s; !math.IsInf(float64(inv), 0) {
		return inv
	}
	return 0
}

func (p *tilePacker) quantiseGroups(row []float32, code []int8, rel []uint16, scale, limit float32) {
	den := 1 // dense columns per stored one
	if p.layout == sparse.LayoutNM24 {
		den = 2
	}
	asked := p.group / den
	if asked == 0 || asked > len(row) {
		asked = len(row)
	}
	kern := p.shape.group / den
	for c := 0; c < len(row); c += asked {
		seg := row[c:min(c+asked, len(row))]
		x := float32(0)
		if scale > 0 {
			x = absMax(seg) / limit / scale
		}
		h := sparse.F32ToF16(x)
		inv := inverse(sparse.F16ToF32(h) * scale)
		for i := 0; i < len(seg); i += kern {
			part := seg[i:min(i+kern, len(seg))]
			quantCodes(code[c+i:], part, inv)
			rel[(c+i)/kern] = h
		}
	}
}

// putScales writes the scales of groups. They end their chunk, those of groups of 32
// each half of it.
func (p *tilePacker) putScales(dst []byte) {
	if p.shape.group == 0 {
		return
	}
	per := p.chunk / p.shape.group
	for g := range p.groups() {
		ch, k := g/per, g%per
		end := dst[ch*p.chunkBytes()+(k+1)*p.chunkBytes()/per-p.scales/per:]
		d := u16s(end[:2*p.block])
		for r := range d {
			d[r] = p.rel[r*p.groups()+g]
			if p.zeros {
				end[2*p.block+r] = p.zero[r*p.groups()+g]
			}
		}
	}
}
