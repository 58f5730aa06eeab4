package loader

import (
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// scheme is how a module's weight is quantised, in compressed-tensors' words.
type scheme struct {
	bits   int
	float  bool
	group  int // 0: per row
	asym   bool
	format string // int-quantized, float-quantized, pack-quantized or our own
}

var safeNames = map[sparse.DType]string{sparse.F32: "F32", sparse.F16: "F16", sparse.BF16: "BF16", sparse.Int8: "I8", sparse.FP8: "F8_E4M3"}

// plan adds the tensors of one weight.
func (s *saver) plan(w *model.Weight) error {
	if strings.HasSuffix(w.Name, ".bias") {
		if s.bias == nil {
			s.bias = map[string]bool{}
		}
		_, part, _ := cutLast(strings.TrimSuffix(w.Name, ".bias"), ".")
		s.bias[part] = true
	}
	m := w.Data
	rows, cols := m.Dims()
	if w.Rank1() || len(w.Shape) != 2 {
		t := s.opts.DType
		if m.DType() == sparse.F32 {
			t = sparse.F32
		}
		s.add(w.Name, safeNames[t], w.Shape, s.plain(w.Name, m, t))
		return nil
	}
	mod, ok := strings.CutSuffix(w.Name, ".weight")
	if !ok {
		return fault(ErrUnsupported, w.Name, -1, "name of a matrix to save", "it to end in .weight", nil)
	}
	s.linears = append(s.linears, mod)
	s.weights += int64(rows) * int64(cols)
	if s.opts.Format == FormatDense {
		s.kept += int64(rows) * int64(cols)
		s.add(w.Name, safeNames[s.opts.DType], w.Shape, s.plain(w.Name, m, s.opts.DType))
		return nil
	}
	switch m.Layout() {
	case sparse.LayoutNM24, sparse.LayoutBitmask, sparse.LayoutCSR:
		return s.planSparse(mod, m)
	}
	s.kept += int64(rows) * int64(cols)
	return s.planDense(w, mod, m)
}

func (s *saver) add(name, dtype string, shape []int, write func(io.Writer) error) {
	s.tensors = append(s.tensors, &tensor{name: name, dtype: dtype, shape: shape, write: write})
}

// plain writes a matrix row by row as numbers of type t.
func (s *saver) plain(name string, m sparse.Matrix, t sparse.DType) func(io.Writer) error {
	return func(w io.Writer) error {
		var buf []byte
		return sparse.EachRow(m, func(r int, row []float32) error {
			if err := s.ctx.Err(); err != nil {
				return err
			}
			var bad int
			if buf, bad = appendNumbers(buf[:0], row, t); bad >= 0 {
				return fault(ErrNonFinite, name, -1, fmt.Sprintf("row %d column %d as %v", r, bad, t), "a finite number (bf16 and f32 hold larger ones)", row[bad])
			}
			_, err := w.Write(buf)
			return err
		})
	}
}

// appendNumbers encodes x as t; bad is the first number that is not finite in it,
// -1 if none.
func appendNumbers(b []byte, x []float32, t sparse.DType) (out []byte, bad int) {
	bad = -1
	note := func(i int, overflow bool) {
		if overflow && bad < 0 {
			bad = i
		}
	}
	for i, v := range x {
		switch t {
		case sparse.F16:
			h := sparse.F32ToF16(v)
			note(i, h&0x7c00 == 0x7c00)
			b = append(b, byte(h), byte(h>>8))
		case sparse.BF16:
			h := sparse.F32ToBF16(v)
			note(i, h&0x7f80 == 0x7f80)
			b = append(b, byte(h), byte(h>>8))
		default:
			u := math.Float32bits(v)
			note(i, u&inf32 == inf32)
			b = append(b, byte(u), byte(u>>8), byte(u>>16), byte(u>>24))
		}
	}
	return b, bad
}

// planDense adds a dense matrix: quantised if it is, else as numbers.
func (s *saver) planDense(w *model.Weight, mod string, m sparse.Matrix) error {
	if !m.DType().Quantised() {
		s.add(w.Name, safeNames[s.opts.DType], w.Shape, s.plain(w.Name, m, s.opts.DType))
		return nil
	}
	loaded, err := sparse.Load(m)
	if err != nil {
		return err
	}
	d, ok := loaded.(*sparse.Dense)
	if !ok || d.Quant == nil {
		s.add(w.Name, safeNames[s.opts.DType], w.Shape, s.plain(w.Name, m, s.opts.DType))
		return nil
	}
	if d.Values.Type == sparse.Int4 {
		s.quantised(mod, scheme{bits: 4, format: "pack-quantized"}, d.Quant, d.R, d.C)
		words := (d.C + 7) / 8
		s.add(mod+".weight_packed", "I32", []int{d.R, words}, func(out io.Writer) error {
			buf := make([]byte, 4*words)
			for r := range d.R {
				clear(buf)
				ld := (d.C + 1) / 2
				copy(buf, d.Values.Q[r*ld:(r+1)*ld])
				if d.C%2 != 0 {
					buf[ld-1] &= 15 // the slot beyond the row holds no code
				}
				if _, err := out.Write(buf); err != nil {
					return err
				}
			}
			return nil
		})
		s.shape(mod+".weight_shape", []int{2}, d.R, d.C)
		return nil
	}
	sch := scheme{bits: 8, format: "int-quantized"}
	if d.Values.Type == sparse.FP8 {
		sch.float, sch.format = true, "float-quantized"
	}
	s.quantised(mod, sch, d.Quant, d.R, d.C)
	s.add(w.Name, safeNames[d.Values.Type], w.Shape, func(out io.Writer) error {
		_, err := out.Write(d.Values.Q)
		return err
	})
	return nil
}

// shape adds a tensor that holds the dense shape.
func (s *saver) shape(name string, dims []int, rows, cols int) {
	s.add(name, "I64", dims, func(w io.Writer) error {
		b := make([]byte, 16)
		for i := range 8 {
			b[i], b[8+i] = byte(rows>>(8*i)), byte(cols>>(8*i))
		}
		_, err := w.Write(b)
		return err
	})
}

// quantised adds scales and zero points and files the module under its scheme.
func (s *saver) quantised(mod string, sch scheme, q *sparse.Quant, rows, cols int) {
	sch.group, sch.asym = q.Group, q.Zeros != nil
	s.groups[sch] = append(s.groups[sch], mod)
	n := q.Groups(cols)
	t := scaleType(q)
	s.add(mod+".weight_scale", safeNames[t], []int{rows, n}, func(w io.Writer) error {
		x := make([]float32, len(q.Scales))
		for i, v := range q.Scales {
			if x[i] = v; v == 0 {
				x[i] = 1 // all codes of the group are zero; readers refuse a zero scale
			}
		}
		b, bad := appendNumbers(nil, x, t)
		if bad >= 0 {
			return fault(ErrNonFinite, mod+".weight_scale", -1, "scale", "a finite number", x[bad])
		}
		_, err := w.Write(b)
		return err
	})
	if q.Zeros == nil {
		return
	}
	if sch.format == "pack-quantized" {
		words := (rows + 7) / 8
		s.add(mod+".weight_zero_point", "I32", []int{words, n}, func(w io.Writer) error {
			b := make([]byte, 4*words*n)
			for r := range rows {
				for g := range n {
					u := byte(q.Zeros[r*n+g]+8) & 15
					b[4*(r/8*n+g)+r%8/2] |= u << (4 * (r & 1))
				}
			}
			_, err := w.Write(b)
			return err
		})
		return
	}
	s.add(mod+".weight_zero_point", "I8", []int{rows, n}, func(w io.Writer) error {
		b := make([]byte, len(q.Zeros))
		for i, z := range q.Zeros {
			b[i] = byte(z)
		}
		_, err := w.Write(b)
		return err
	})
}

// scaleType is the smallest type that holds all scales exactly: the one they
// claim to have, or f32.
func scaleType(q *sparse.Quant) sparse.DType {
	for _, v := range q.Scales {
		switch q.Type {
		case sparse.F16:
			if sparse.F16ToF32(sparse.F32ToF16(v)) != v {
				return sparse.F32
			}
		case sparse.BF16:
			if sparse.BF16ToF32(sparse.F32ToBF16(v)) != v {
				return sparse.F32
			}
		default:
			return sparse.F32
		}
	}
	return q.Type
}
