package loader

import (
	"fmt"
	"math/bits"
	"strings"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// bitmasked is a matrix in one of the bitmask forms that lies in a file. It
// implements sparse.Stored.
type bitmasked struct {
	name   string
	r, c   int
	mask   *safeTensor // [r, ceil(c/8)], bit j of byte k is column 8k+j
	values *safeTensor // the weights whose bit is set, row-major
	f      *format     // of the values; nil: int4 codes, two a byte
	ptr    []int64     // [r+1] where a row's values start; nil for 2:4: c/2 a row
	is24   bool
	quant  *sparse.Quant
	o      *options
}

func (m *bitmasked) Dims() (int, int) { return m.r, m.c }

func (m *bitmasked) Layout() sparse.Layout {
	if m.is24 {
		return sparse.LayoutNM24
	}
	return sparse.LayoutBitmask
}

func (m *bitmasked) DType() sparse.DType {
	if m.f == nil {
		return sparse.Int4
	}
	return m.f.t
}

// Bytes implements sparse.Matrix.
func (m *bitmasked) Bytes() sparse.Bytes {
	b := sparse.Bytes{Values: m.values.size, Metadata: m.mask.size, Scales: m.quant.Bytes()}
	if !m.is24 {
		b.Metadata += 8 * int64(len(m.ptr))
	}
	return b
}

func (m *bitmasked) stride() int { return (m.c + 7) / 8 }

// start is where the values of row r begin.
func (m *bitmasked) start(r int) int64 {
	if m.is24 {
		return int64(r) * int64(m.c/2)
	}
	return m.ptr[r]
}

// numbers unpacks the values k0..k1.
func (m *bitmasked) numbers(dst []float32, k0, k1 int64) error {
	if k0 == k1 {
		return nil
	}
	if m.f == nil {
		return m.values.src.view(m.values.off+k0/2, int((k1+1)/2-k0/2), func(raw []byte) error {
			for k := k0; k < k1; k++ {
				dst[k-k0] = float32(int(raw[k/2-k0/2]>>(4*(k&1))&15) - 8)
			}
			return nil
		})
	}
	at := m.values.off + k0*int64(m.f.bytes)
	return m.values.src.view(at, int(k1-k0)*m.f.bytes, func(raw []byte) error {
		if !m.f.unpack(dst[:k1-k0], raw) && !m.o.nonFinite {
			return inFile(fault(ErrNonFinite, m.values.name, at, "weights", "finite numbers (AllowNonFinite takes others)", firstNonFinite(dst[:k1-k0])), m.values.src.name)
		}
		return nil
	})
}

// ReadRows implements sparse.Matrix.
func (m *bitmasked) ReadRows(dst []float32, r0 int) error {
	n, err := checkRead(m.name, m.r, m.c, len(dst), r0)
	if err != nil || n == 0 {
		return err
	}
	bs := m.stride()
	step := max(1, min(n, chunk/max(1, 4*m.c)))
	var vals []float32
	for i := 0; i < n; i += step {
		k := min(step, n-i)
		first, last := m.start(r0+i), m.start(r0+i+k)
		if int(last-first) > cap(vals) {
			vals = make([]float32, step*m.c)
		}
		vals = vals[:last-first]
		if err := m.numbers(vals, first, last); err != nil {
			return err
		}
		err := m.mask.src.view(m.mask.off+int64(r0+i)*int64(bs), k*bs, func(raw []byte) error {
			for j := range k {
				row := dst[(i+j)*m.c : (i+j+1)*m.c]
				v := vals[m.start(r0+i+j)-first : m.start(r0+i+j+1)-first]
				if !spread(row, raw[j*bs:(j+1)*bs], v) {
					return inFile(fault(ErrChanged, m.mask.name, -1, fmt.Sprint("mask of row ", r0+i+j), "as it was when the file was opened", nil), m.mask.src.name)
				}
				if m.quant != nil {
					scaleKept(m.quant, row, raw[j*bs:(j+1)*bs], r0+i+j)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// spread puts values where the mask has bits; false if their number differs.
func spread(row []float32, mask []byte, v []float32) bool {
	clear(row)
	k := 0
	for j, b := range mask {
		for ; b != 0; b &= b - 1 {
			c := 8*j + bits.TrailingZeros8(b)
			if k == len(v) || c >= len(row) {
				return false
			}
			row[c] = v[k]
			k++
		}
	}
	return k == len(v)
}

// scaleKept scales the kept weights of a row; the others stay exactly zero, which
// a zero point would move.
func scaleKept(q *sparse.Quant, row []float32, mask []byte, r int) {
	if q.Zeros == nil {
		scaleRow(q, row, r)
		return
	}
	for c := range row {
		if mask[c/8]>>(c%8)&1 != 0 {
			s, z := q.Scale(r, c, len(row))
			row[c] = (row[c] - z) * s
		}
	}
}

// Load implements sparse.Stored: sparse.NM24 or sparse.Bitmask.
func (m *bitmasked) Load() (sparse.Matrix, error) {
	mask, err := m.mask.bytes()
	if err != nil {
		return nil, err
	}
	v, err := m.load()
	if err != nil {
		return nil, err
	}
	if !m.is24 {
		b := &sparse.Bitmask{R: m.r, C: m.c, Bits: mask, RowPtr: m.ptr, Values: v, Quant: m.quant}
		return b, m.checked(b.Check())
	}
	n := &sparse.NM24{R: m.r, C: m.c, Values: v, Quant: m.quant}
	bs, ms := m.stride(), n.MetaStride()
	n.Meta = make([]byte, m.r*ms)
	for r := range m.r {
		for j, b := range mask[r*bs : (r+1)*bs] { // a mask byte is two groups is a metadata byte
			lo, hi := pairOf[b&15], pairOf[b>>4]
			if 8*j+4 >= m.c {
				hi = 0xE
			}
			n.Meta[r*ms+j] = lo | hi<<4
		}
	}
	return n, m.checked(n.Check())
}

func (m *bitmasked) checked(err error) error {
	if err != nil {
		return inFile(fault(ErrSparse, m.name, -1, err.Error(), nil, nil), m.mask.src.name)
	}
	return nil
}

// pairOf turns 4 mask bits into i0 | i1<<2; 0 where not exactly two are set.
var pairOf = [16]byte{0b0011: 0x4, 0b0101: 0x8, 0b0110: 0x9, 0b1001: 0xC, 0b1010: 0xD, 0b1100: 0xE}

// load reads all values in their own type.
func (m *bitmasked) load() (sparse.Values, error) {
	v := sparse.Values{Type: m.DType()}
	n := m.start(m.r)
	switch v.Type {
	case sparse.F32:
		v.F32 = make([]float32, n)
		return v, m.eachChunk(n, func(k0, k1 int64) error { return m.numbers(v.F32[k0:k1], k0, k1) })
	case sparse.F16, sparse.BF16:
		v.U16 = make([]uint16, n)
		probe := make([]float32, chunk/4)
		return v, m.eachChunk(n, func(k0, k1 int64) error {
			if err := m.numbers(probe, k0, k1); err != nil { // for the check of finite numbers
				return err
			}
			return m.values.src.view(m.values.off+2*k0, int(2*(k1-k0)), func(raw []byte) error {
				for i := range v.U16[k0:k1] {
					v.U16[k0+int64(i)] = le16(raw[2*i:])
				}
				return nil
			})
		})
	}
	b, err := m.values.bytes()
	v.Q = b
	return v, err
}

func (m *bitmasked) eachChunk(n int64, f func(k0, k1 int64) error) error {
	const step = chunk / 4
	for k := int64(0); k < n; k += step {
		if err := f(k, min(n, k+step)); err != nil {
			return err
		}
	}
	return nil
}

// bitmask builds a weight from <mod>.bitmask and its siblings; every number in
// them is checked before anything is decoded by it.
func (m *modules) bitmask(mod string, mask *safeTensor) (*model.Weight, error) {
	m.used[mask.name] = true
	values, packed := m.part(mod, ctCompressed), m.part(mod, ctInt4)
	shape, offsets := m.part(mod, ctShape), m.part(mod, ctOffsets)
	name := mod + ".weight"
	if strings.HasSuffix(mod, ".weight") { // up to 0.8 the prefix was the weight's name
		mod, name = strings.TrimSuffix(mod, ".weight"), mod
	}
	b := &bitmasked{name: name, mask: mask, values: values, o: m.o}
	switch {
	case values != nil && packed == nil:
		b.f = formats[values.t]
		switch values.t {
		case sparse.F32, sparse.F16, sparse.BF16, sparse.Int8, sparse.FP8:
		default:
			return nil, values.fail(ErrUnsupported, "type of sparse values", "f32, f16, bf16, int8 or fp8", values.t)
		}
	case packed != nil && values == nil && packed.t == sparse.Uint8:
		b.values = packed
	default:
		return nil, mask.fail(ErrSparse, "bit mask without values "+mod+ctCompressed, nil, nil)
	}
	if mask.t != sparse.Uint8 {
		return nil, mask.fail(ErrSparse, "type of a bit mask", "U8", mask.t)
	}
	dims, err := b.dims(shape, offsets)
	if err != nil {
		return nil, err
	}
	if err := b.scan(offsets); err != nil {
		return nil, err
	}
	if b.DType().Quantised() {
		if b.quant, err = m.scales(mod, b.r, b.c, nil); err != nil {
			return nil, err
		}
		if b.quant.Zeros != nil && b.f != nil {
			return nil, errAsymmetric(mod)
		}
	}
	if !b.is24 && m.cfg.structure == "2:4" {
		if err := b.hold24(); err != nil {
			return nil, err
		}
	}
	if b.r > 1 {
		n := int64(b.r) * int64(b.c)
		m.count.weights += n
		m.count.sparse += n
		m.count.certain += n - b.start(b.r)
		m.count.maybeZero += b.start(b.r)
	}
	return &model.Weight{Name: name, Shape: dims, Data: b}, nil
}
