package loader

import (
	"fmt"

	"github.com/sparserun/sparserun/sparse"
)

// stored is a dense matrix that lies row by row in a file and is unpacked when
// rows are asked for. It implements sparse.Stored.
type stored struct {
	src       *source
	name      string // of the tensor, for errors
	off       int64
	r, c      int
	f         *format
	heads     int // rows of a head, where GGUF interleaves them for RoPE; 0: file order
	quant     *sparse.Quant
	nonfinite bool // NaN and infinity are let through
}

func (m *stored) Dims() (int, int)      { return m.r, m.c }
func (m *stored) Layout() sparse.Layout { return sparse.LayoutDense }
func (m *stored) DType() sparse.DType   { return m.f.t }

// Bytes implements sparse.Matrix: the bytes in the file.
func (m *stored) Bytes() sparse.Bytes {
	blocks := int64(m.r) * int64(m.c/m.f.block)
	return sparse.Bytes{Values: blocks * int64(m.f.bytes-m.f.scales), Scales: blocks*int64(m.f.scales) + m.quant.Bytes()}
}

func (m *stored) fail(err error) error {
	if e, ok := err.(*Error); ok && e.Tensor == "" {
		e.Tensor = m.name
	}
	return err
}

// checkRead validates the arguments of a ReadRows and returns the row count.
func checkRead(name string, rows, cols, n, r0 int) (int, error) {
	if cols == 0 {
		return 0, nil
	}
	if n%cols != 0 || r0 < 0 || n/cols > rows-r0 {
		return 0, fault(ErrShape, name, -1, "read", fmt.Sprintf("rows inside [%d %d]", rows, cols), fmt.Sprintf("%d numbers at row %d", n, r0))
	}
	return n / cols, nil
}

// ReadRows implements sparse.Matrix.
func (m *stored) ReadRows(dst []float32, r0 int) error {
	n, err := checkRead(m.name, m.r, m.c, len(dst), r0)
	if err != nil {
		return err
	}
	if m.heads != 0 {
		err = m.readHeads(dst, r0, n)
	} else {
		err = m.readRun(dst, r0, n)
	}
	if err != nil {
		return m.fail(err)
	}
	if m.quant != nil {
		for i := range n {
			scaleRow(m.quant, dst[i*m.c:(i+1)*m.c], r0+i)
		}
	}
	return nil
}

// readRun reads n rows that lie together, a buffer at a time.
func (m *stored) readRun(dst []float32, r0, n int) error {
	rb := m.f.rowBytes(m.c)
	off := m.off + int64(r0)*int64(rb)
	blocks := n * (m.c / m.f.block) // rows need no care: blocks never span them
	step := max(1, chunk/m.f.bytes)
	for b := 0; b < blocks; b += step {
		k := min(step, blocks-b)
		at := off + int64(b)*int64(m.f.bytes)
		err := m.src.view(at, k*m.f.bytes, func(raw []byte) error {
			return m.decode(dst[b*m.f.block:(b+k)*m.f.block], raw, at)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *stored) decode(dst []float32, raw []byte, at int64) error {
	if !m.f.unpack(dst, raw) && !m.nonfinite {
		return inFile(fault(ErrNonFinite, m.name, at, "weights", "finite numbers (AllowNonFinite takes others)", firstNonFinite(dst)), m.src.name)
	}
	return nil
}

func firstNonFinite(x []float32) string {
	for i, v := range x {
		if v-v != 0 {
			return fmt.Sprintf("%v, number %d from there", v, i)
		}
	}
	return "a scale that is not"
}

// readHeads reads rows in Hugging Face's half-split order from GGUF's
// interleaved one: within a head of d rows, row s*d/2+i lies at 2i+s.
func (m *stored) readHeads(dst []float32, r0, n int) error {
	d, rb := m.heads, m.f.rowBytes(m.c)
	for i := 0; i < n; {
		head, first := (r0+i)/d, (r0+i)%d
		k := min(d-first, n-i)
		// One row alone is read alone, several with the whole head.
		lo, cnt := 0, d
		if k == 1 {
			lo, cnt = interleaved(first, d), 1
		}
		at := m.off + int64(head*d+lo)*int64(rb)
		err := m.src.view(at, cnt*rb, func(raw []byte) error {
			for j := range k {
				src := interleaved(first+j, d) - lo
				if err := m.decode(dst[(i+j)*m.c:(i+j+1)*m.c], raw[src*rb:(src+1)*rb], at+int64(src*rb)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		i += k
	}
	return nil
}

// interleaved is where row i of a half-split head of d rows lies in GGUF.
func interleaved(i, d int) int { return i%(d/2)*2 + i/(d/2) }

// scaleRow turns a row of codes into weights.
func scaleRow(q *sparse.Quant, row []float32, r int) {
	g := q.Group
	if g == 0 {
		g = max(1, len(row))
	}
	for c := 0; c < len(row); c += g {
		s, z := q.Scale(r, c, len(row))
		seg := row[c:min(c+g, len(row))]
		for i, x := range seg {
			seg[i] = (x - z) * s
		}
	}
}

// Load implements sparse.Stored. Q8_0 and Q4_0 become int8 and int4 in groups
// of 32, which is exact; the other block types have minima or two levels of
// scales and become f32.
func (m *stored) Load() (sparse.Matrix, error) {
	t := m.f.t
	switch t {
	case sparse.F32, sparse.F16, sparse.BF16:
	case sparse.Int8, sparse.FP8:
		if m.quant == nil {
			t = sparse.F32
		}
	case sparse.Q8_0:
		t = sparse.Int8
	case sparse.Q4_0:
		t = sparse.Int4
	default:
		t = sparse.F32
	}
	n := m.r * m.c // Int4 here has blocks of 32: no row ends inside a byte
	v, err := sparse.MakeValues(t, n)
	if err != nil {
		return nil, err
	}
	d := &sparse.Dense{R: m.r, C: m.c, Values: v, Quant: m.quant}
	switch m.f.t {
	case sparse.F16, sparse.BF16:
		return d, m.eachRow(func(r int, raw []byte) {
			for c, row := 0, v.U16[r*m.c:(r+1)*m.c]; c < len(row); c++ {
				row[c] = le16(raw[2*c:])
			}
		})
	case sparse.Q8_0, sparse.Q4_0:
		d.Quant = &sparse.Quant{Group: 32, Type: sparse.F16, Scales: make([]float32, n/32)}
		return d, m.eachRow(func(r int, raw []byte) { splitBlocks(d, m.f, r, raw) })
	case sparse.Int8, sparse.FP8:
		if m.quant != nil {
			return d, m.eachRow(func(r int, raw []byte) { copy(v.Q[r*m.c:], raw) })
		}
	}
	return d, m.ReadRows(v.F32, 0)
}

// splitBlocks moves a row's codes and scales into d.
func splitBlocks(d *sparse.Dense, f *format, r int, raw []byte) {
	for b := range d.C / 32 {
		blk := raw[b*f.bytes : (b+1)*f.bytes]
		at := r*d.C + 32*b
		d.Quant.Scales[at/32] = halfTable[le16(blk)]
		if f.t == sparse.Q8_0 {
			copy(d.Values.Q[at:at+32], blk[2:])
			continue
		}
		q := d.Values.Q[at/2 : at/2+16] // code+8 in both, but neighbours share a byte
		for j := range 8 {
			lo, hi := blk[2+2*j], blk[3+2*j]
			q[j] = lo&15 | hi<<4
			q[j+8] = lo>>4 | hi&0xf0
		}
	}
}

// eachRow calls f with every row's raw bytes, in the matrix's order, after the
// same check for finite numbers that ReadRows makes.
func (m *stored) eachRow(f func(r int, raw []byte)) error {
	rb := m.f.rowBytes(m.c)
	probe := make([]float32, m.c)
	step := max(1, chunk/max(1, rb))
	if m.heads != 0 {
		step = m.heads
	}
	for r := 0; r < m.r; r += step {
		n := min(step, m.r-r)
		at := m.off + int64(r)*int64(rb)
		err := m.src.view(at, n*rb, func(raw []byte) error {
			for i := range n {
				src := i
				if m.heads != 0 {
					src = interleaved(i, m.heads)
				}
				row := raw[src*rb : (src+1)*rb]
				if err := m.decode(probe, row, at+int64(src*rb)); err != nil {
					return err
				}
				f(r+i, row)
			}
			return nil
		})
		if err != nil {
			return m.fail(err)
		}
	}
	return nil
}
