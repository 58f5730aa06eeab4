package sparse

import "fmt"

// Values is a run of numbers of one type; only the slice of its type is set.
type Values struct {
	Type DType
	F32  []float32 // F32
	U16  []uint16  // F16, BF16: bit patterns
	Q    []byte    // Int8: two's complement; FP8: e4m3 bits; Int4: code+8, two a byte, low nibble first
}

// MakeValues allocates n zero numbers. Zero of Int4 is code 8.
func MakeValues(t DType, n int) (Values, error) {
	v := Values{Type: t}
	switch t {
	case F32:
		v.F32 = make([]float32, n)
	case F16, BF16:
		v.U16 = make([]uint16, n)
	case Int8, FP8:
		v.Q = make([]byte, n)
	case Int4:
		v.Q = make([]byte, (n+1)/2)
		for i := range v.Q {
			v.Q[i] = 0x88
		}
	default:
		return v, fmt.Errorf("sparse: values of type %v: %w", t, ErrType)
	}
	return v, nil
}

// Len is the number of numbers; for Int4 it is rounded up to an even count.
func (v Values) Len() int {
	switch v.Type {
	case F32:
		return len(v.F32)
	case F16, BF16:
		return len(v.U16)
	case Int4:
		return 2 * len(v.Q)
	}
	return len(v.Q)
}

// Bytes is the memory of the numbers.
func (v Values) Bytes() int64 { return int64(4*len(v.F32) + 2*len(v.U16) + len(v.Q)) }

// At is number i before scaling: the integer code of Int8 and Int4.
func (v Values) At(i int) float32 {
	switch v.Type {
	case F32:
		return v.F32[i]
	case F16:
		return F16ToF32(v.U16[i])
	case BF16:
		return BF16ToF32(v.U16[i])
	case Int8:
		return float32(int8(v.Q[i]))
	case Int4:
		return float32(int(v.Q[i/2]>>(4*(i&1))&15) - 8)
	case FP8:
		return FP8ToF32(v.Q[i])
	}
	return 0
}

// Set stores x, rounded to the type; for Int8 and Int4 x is the integer code.
func (v Values) Set(i int, x float32) {
	switch v.Type {
	case F32:
		v.F32[i] = x
	case F16:
		v.U16[i] = F32ToF16(x)
	case BF16:
		v.U16[i] = F32ToBF16(x)
	case Int8:
		v.Q[i] = byte(int8(x))
	case Int4:
		s := 4 * (i & 1)
		v.Q[i/2] = v.Q[i/2]&^(15<<s) | byte(int(x)+8)<<s
	}
}

// Quant gives quantised codes their meaning: weight = (code - zero) * scale.
// Groups are counted in dense columns, whatever the layout keeps of them.
type Quant struct {
	Group  int       // columns that share a scale; 0: the whole row
	Type   DType     // how a scale is stored, for Bytes: F32, F16 or BF16
	Scales []float32 // [R, Groups(C)]
	Zeros  []int8    // [R, Groups(C)]; nil: symmetric
}

// Groups is the number of scales in a row of cols columns.
func (q *Quant) Groups(cols int) int {
	if q.Group == 0 || cols == 0 {
		return 1
	}
	return (cols + q.Group - 1) / q.Group
}

// Scale is the scale and zero point of row r, column c.
func (q *Quant) Scale(r, c, cols int) (scale, zero float32) {
	i := r
	if q.Group != 0 {
		i = r*q.Groups(cols) + c/q.Group
	}
	if q.Zeros != nil {
		zero = float32(q.Zeros[i])
	}
	return q.Scales[i], zero
}

// Bytes is the memory of scales and zero points in their stored types.
func (q *Quant) Bytes() int64 {
	if q == nil {
		return 0
	}
	return int64(float64(len(q.Scales))*q.Type.Bits()/8) + int64(len(q.Zeros))
}

// check validates q against the shape; want says where the form came from.
func (q *Quant) check(t DType, rows, cols int) error {
	if !t.Quantised() {
		return nil
	}
	if q == nil {
		return fmt.Errorf("sparse: %v values without scales: %w", t, ErrFormat)
	}
	n := rows * q.Groups(cols)
	if q.Group < 0 || len(q.Scales) != n || (q.Zeros != nil && len(q.Zeros) != n) {
		return fmt.Errorf("sparse: [%d %d] in groups of %d: want %d scales, got %d: %w", rows, cols, q.Group, n, len(q.Scales), ErrFormat)
	}
	return nil
}

// scaleRow turns the codes of a dense row into weights in place.
func (q *Quant) scaleRow(row []float32, r, cols int) {
	if q == nil {
		return
	}
	g := q.Group
	if g == 0 {
		g = max(1, cols)
	}
	for c := 0; c < len(row); c += g {
		s, z := q.Scale(r, c, cols)
		for i := c; i < min(c+g, len(row)); i++ {
			row[i] = (row[i] - z) * s
		}
	}
}
