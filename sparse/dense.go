package sparse

// Dense is a matrix with every weight stored, row-major.
type Dense struct {
	R, C   int
	Values Values // [R, C]; Int4 rows start on whole bytes
	Quant  *Quant // nil unless the type is quantised
}

// NewDense wraps values row-major; no copy.
func NewDense(rows, cols int, f []float32) *Dense {
	return &Dense{R: rows, C: cols, Values: Values{Type: F32, F32: f}}
}

func (d *Dense) Dims() (int, int) { return d.R, d.C }
func (d *Dense) Layout() Layout   { return LayoutDense }
func (d *Dense) DType() DType     { return d.Values.Type }
func (d *Dense) Bytes() Bytes     { return Bytes{Values: d.Values.Bytes(), Scales: d.Quant.Bytes()} }

// stride is the number of value slots of a row.
func stride(t DType, n int) int {
	if t == Int4 {
		return (n + 1) &^ 1
	}
	return n
}

// ReadRows implements Matrix.
func (d *Dense) ReadRows(dst []float32, r0 int) error {
	n, err := checkRows(d.R, d.C, len(dst), r0)
	if err != nil {
		return err
	}
	ld := stride(d.Values.Type, d.C)
	for i := range n {
		row := dst[i*d.C : (i+1)*d.C]
		base := (r0 + i) * ld
		switch d.Values.Type {
		case F32:
			copy(row, d.Values.F32[base:])
		case F16:
			for c, h := range d.Values.U16[base : base+d.C] {
				row[c] = F16ToF32(h)
			}
		case BF16:
			for c, h := range d.Values.U16[base : base+d.C] {
				row[c] = BF16ToF32(h)
			}
		default:
			for c := range row {
				row[c] = d.Values.At(base + c)
			}
		}
		if d.Quant != nil {
			d.Quant.scaleRow(row, r0+i, d.C)
		}
	}
	return nil
}
