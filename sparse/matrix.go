package sparse

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Errors of this package; every error wraps one of them.
var (
	ErrShape   = errors.New("shape mismatch")
	ErrPattern = errors.New("sparsity pattern not held")
	ErrFormat  = errors.New("malformed sparse form")
	ErrType    = errors.New("unsupported type")
)

// Layout says which weights a form stores and how it finds them.
type Layout uint8

// The layouts.
const (
	LayoutDense Layout = iota + 1
	LayoutNM24
	LayoutBitmask
	LayoutCSR
)

// Layouts lists every layout, dense first.
var Layouts = []Layout{LayoutDense, LayoutNM24, LayoutBitmask, LayoutCSR}

var layoutNames = [...]string{LayoutDense: "dense", LayoutNM24: "nm24", LayoutBitmask: "bitmask", LayoutCSR: "csr"}

// String is the name used in flags and JSON.
func (l Layout) String() string {
	if int(l) < len(layoutNames) && layoutNames[l] != "" {
		return layoutNames[l]
	}
	return fmt.Sprintf("layout(%d)", uint8(l))
}

// MarshalText writes the name used in flags and JSON.
func (l Layout) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads a name as String writes it.
func (l *Layout) UnmarshalText(b []byte) error {
	v, err := ParseLayout(string(b))
	*l = v
	return err
}

// ParseLayout reads a name as String writes it.
func ParseLayout(s string) (Layout, error) {
	for l, n := range layoutNames {
		if n != "" && n == strings.ToLower(s) {
			return Layout(l), nil
		}
	}
	return 0, fmt.Errorf("sparse: unknown layout %q", s)
}

// Bytes is what a form occupies, by purpose.
type Bytes struct {
	Values   int64
	Metadata int64 // indices, bit masks, row pointers
	Scales   int64 // scales and zero points
}

// Total is the sum of the parts.
func (b Bytes) Total() int64 { return b.Values + b.Metadata + b.Scales }

// Add returns the part-wise sum.
func (b Bytes) Add(c Bytes) Bytes {
	return Bytes{b.Values + c.Values, b.Metadata + c.Metadata, b.Scales + c.Scales}
}

// MarshalJSON writes the parts and the total.
func (b Bytes) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Values   int64 `json:"values"`
		Metadata int64 `json:"metadata"`
		Scales   int64 `json:"scales"`
		Total    int64 `json:"total"`
	}{b.Values, b.Metadata, b.Scales, b.Total()})
}

// Matrix is a weight matrix of R rows (outputs) by C columns (inputs) in some
// stored form. Implementations are immutable and safe for concurrent use.
type Matrix interface {
	Dims() (rows, cols int)
	Layout() Layout
	DType() DType // of the stored values
	Bytes() Bytes
	// ReadRows unpacks the rows r0, r0+1, ... into dst, row-major; len(dst) is a
	// multiple of the number of columns. Forms that live in a file can fail.
	ReadRows(dst []float32, r0 int) error
}

// checkRows validates the arguments of a ReadRows and returns the row count.
func checkRows(rows, cols, n, r0 int) (int, error) {
	if cols == 0 {
		return 0, nil
	}
	k := n / cols
	if n%cols != 0 || r0 < 0 || k > rows-r0 {
		return 0, fmt.Errorf("sparse: read of %d numbers at row %d of [%d %d]: %w", n, r0, rows, cols, ErrShape)
	}
	return k, nil
}

// Read unpacks the whole matrix, row-major.
func Read(m Matrix) ([]float32, error) {
	r, c := m.Dims()
	dst := make([]float32, r*c)
	return dst, m.ReadRows(dst, 0)
}

// EachRow calls f with every row of m unpacked; the slice is reused.
func EachRow(m Matrix, f func(r int, row []float32) error) error {
	rows, cols := m.Dims()
	if cols == 0 {
		return nil
	}
	step := max(1, min(rows, 1<<16/cols))
	buf := make([]float32, step*cols)
	for r := 0; r < rows; r += step {
		n := min(step, rows-r)
		if err := m.ReadRows(buf[:n*cols], r); err != nil {
			return err
		}
		for i := range n {
			if err := f(r+i, buf[i*cols:(i+1)*cols]); err != nil {
				return err
			}
		}
	}
	return nil
}

// Count is what a pass over a matrix finds: the numbers behind "sparsity".
type Count struct {
	Weights, Zeros int64
	Hold24         bool // every group of 4 columns has at most 2 nonzeros
}

// Sparsity is the fraction of weights that are zero, 0 for an empty matrix.
func (c Count) Sparsity() float64 {
	if c.Weights == 0 {
		return 0
	}
	return float64(c.Zeros) / float64(c.Weights)
}

// CountZeros counts zeros and checks the 2:4 rule in one pass.
func CountZeros(m Matrix) (Count, error) {
	c := Count{Hold24: true}
	err := EachRow(m, func(_ int, row []float32) error {
		c.Weights += int64(len(row))
		for i := 0; i < len(row); i += 4 {
			g := row[i:min(i+4, len(row))]
			nz := 0
			for _, v := range g {
				if v != 0 {
					nz++
				}
			}
			c.Zeros += int64(len(g) - nz)
			if nz > 2 {
				c.Hold24 = false
			}
		}
		return nil
	})
	return c, err
}
