package tensorop

import (
	"fmt"
	"math"
	"strconv"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// Cast converts a tensor to another type. saturate says what becomes of numbers
// beyond the range of an 8-bit float: the largest one, or NaN (or infinity).
func Cast(t *T, to model.Elem, saturate bool) (*T, error) {
	if t.Seq {
		return nil, fmt.Errorf("cast of a sequence: %w", ErrType)
	}
	if t.Elem == to {
		return t, nil
	}
	out, err := make0(to, t.Shape...)
	if err != nil {
		return nil, err
	}
	switch d := t.Data.(type) {
	case []string:
		err = fromStrings(out, d, saturate)
	case []int64: // exact where the target is an integer
		if !to.Float() && to != model.ElemString {
			intsTo(out, len(d), func(i int) int64 { return d[i] })
			return out, nil
		}
		err = floatsTo(out, len(d), saturate, func(i int) float64 { return float64(d[i]) })
	case []uint64:
		if !to.Float() && to != model.ElemString {
			intsTo(out, len(d), func(i int) int64 { return int64(d[i]) })
			return out, nil
		}
		err = floatsTo(out, len(d), saturate, func(i int) float64 { return float64(d[i]) })
	default:
		get, err := reader(t)
		if err != nil {
			return nil, err
		}
		if to == model.ElemString {
			s := out.Data.([]string)
			for i := range s {
				s[i] = formatNumber(get(i), t.Elem)
			}
			return out, nil
		}
		if !to.Float() && to != model.ElemBool && !t.Elem.Float() {
			intsTo(out, t.Len(), func(i int) int64 { return int64(get(i)) })
			return out, nil
		}
		return out, floatsTo(out, t.Len(), saturate, get)
	}
	return out, err
}

// reader gives element i as float64; exact but for 64-bit integers.
func reader(t *T) (func(i int) float64, error) {
	switch d := t.Data.(type) {
	case []float32:
		return func(i int) float64 { return float64(d[i]) }, nil
	case []float64:
		return func(i int) float64 { return d[i] }, nil
	case []int8:
		return func(i int) float64 { return float64(d[i]) }, nil
	case []int16:
		return func(i int) float64 { return float64(d[i]) }, nil
	case []int32:
		return func(i int) float64 { return float64(d[i]) }, nil
	case []int64:
		return func(i int) float64 { return float64(d[i]) }, nil
	case []uint32:
		return func(i int) float64 { return float64(d[i]) }, nil
	case []uint64:
		return func(i int) float64 { return float64(d[i]) }, nil
	case []bool:
		return func(i int) float64 {
			if d[i] {
				return 1
			}
			return 0
		}, nil
	case []uint16:
		switch t.Elem {
		case model.ElemF16:
			return func(i int) float64 { return float64(sparse.F16ToF32(d[i])) }, nil
		case model.ElemBF16:
			return func(i int) float64 { return float64(sparse.BF16ToF32(d[i])) }, nil
		}
		return func(i int) float64 { return float64(d[i]) }, nil
	case []uint8:
		if f := smallFloats[t.Elem]; f != nil {
			tab := f.table()
			return func(i int) float64 { return tab[d[i]] }, nil
		}
		return func(i int) float64 { return float64(d[i]) }, nil
	}
	return nil, fmt.Errorf("numbers of type %v: %w", t.Elem, ErrType)
}

func formatNumber(v float64, e model.Elem) string {
	switch {
	case e == model.ElemBool:
		return strconv.FormatBool(v != 0)
	case math.IsNaN(v):
		return "NaN"
	case math.IsInf(v, 0):
		if v > 0 {
			return "INF"
		}
		return "-INF"
	}
	bits := 64
	if e == model.ElemF32 || e == model.ElemF16 || e == model.ElemBF16 {
		bits = 32
	}
	return strconv.FormatFloat(v, 'g', -1, bits)
}

func fromStrings(out *T, d []string, saturate bool) error {
	v := make([]float64, len(d))
	for i, s := range d {
		if !out.Elem.Float() {
			if n, err := strconv.ParseInt(s, 10, 64); err == nil {
				intsTo(&T{Elem: out.Elem, Data: out.Data}, i+1, func(int) int64 { return n })
				v[i] = float64(n)
				continue
			}
		}
		x, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return fmt.Errorf("number %.40q: %w", s, ErrType)
		}
		v[i] = x
	}
	return floatsTo(out, len(v), saturate, func(i int) float64 { return v[i] })
}

// intsTo stores integers, wrapping.
func intsTo(out *T, n int, get func(int) int64) {
	switch o := out.Data.(type) {
	case []int8:
		for i := range n {
			switch v := int8(get(i)); out.Elem {
			case model.ElemI4:
				o[i] = v << 4 >> 4
			case model.ElemI2:
				o[i] = v << 6 >> 6
			default:
				o[i] = v
			}
		}
	case []uint8:
		mask := int64(1)<<out.Elem.Bits() - 1
		for i := range n {
			o[i] = uint8(get(i) & mask)
		}
	case []int16:
		for i := range n {
			o[i] = int16(get(i))
		}
	case []uint16:
		for i := range n {
			o[i] = uint16(get(i))
		}
	case []int32:
		for i := range n {
			o[i] = int32(get(i))
		}
	case []uint32:
		for i := range n {
			o[i] = uint32(get(i))
		}
	case []int64:
		for i := range n {
			o[i] = get(i)
		}
	case []uint64:
		for i := range n {
			o[i] = uint64(get(i))
		}
	case []bool:
		for i := range n {
			o[i] = get(i) != 0
		}
	}
}

// floatsTo stores numbers: floats rounded to nearest even, integers cut towards
// zero and wrapped where they do not fit.
func floatsTo(out *T, n int, saturate bool, get func(int) float64) error {
	switch o := out.Data.(type) {
	case []float32:
		for i := range n {
			o[i] = float32(get(i))
		}
	case []float64:
		for i := range n {
			o[i] = get(i)
		}
	case []bool:
		for i := range n {
			o[i] = get(i) != 0
		}
	case []string:
		for i := range n {
			o[i] = formatNumber(get(i), model.ElemF64)
		}
	case []uint16:
		switch out.Elem {
		case model.ElemF16:
			for i := range n {
				o[i] = f64ToF16(get(i))
			}
		case model.ElemBF16:
			for i := range n {
				o[i] = sparse.F32ToBF16(float32(get(i)))
			}
		default:
			for i := range n {
				o[i] = uint16(whole(get(i)))
			}
		}
	case []uint8:
		if f := smallFloats[out.Elem]; f != nil {
			for i := range n {
				o[i] = f.encode(get(i), saturate)
			}
			return nil
		}
		intsTo(out, n, func(i int) int64 { return whole(get(i)) })
	case []uint64:
		for i := range n {
			if v := get(i); v >= 1<<63 {
				o[i] = uint64(v)
			} else {
				o[i] = uint64(whole(v))
			}
		}
	default:
		intsTo(out, n, func(i int) int64 { return whole(get(i)) })
	}
	return nil
}

// whole cuts towards zero; what no int64 holds becomes the nearest, NaN 0.
func whole(v float64) int64 {
	switch {
	case v != v:
		return 0
	case v >= math.MaxInt64:
		return math.MaxInt64
	case v <= math.MinInt64:
		return math.MinInt64
	}
	return int64(v)
}

// f64ToF16 rounds once: through float32 a tie could be made that was none.
func f64ToF16(v float64) uint16 {
	f := float32(v)
	if float64(f) != v && !math.IsNaN(v) && !math.IsInf(float64(f), 0) {
		// Round to odd first, then to nearest: the two together round right.
		b := math.Float32bits(f)
		if math.Abs(float64(f)) > math.Abs(v) {
			b--
		}
		f = math.Float32frombits(b | 1)
	}
	return sparse.F32ToF16(f)
}
