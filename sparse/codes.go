package sparse

// Codes takes m apart where it is stored in quantised type t, symmetric, with a
// scale for every group columns of a row (0: the whole row) or for several groups
// at once: codes is m with every weight's code in place of its value, q its scales
// in groups of group. Whoever wants m in that type and those groups takes both as
// they are instead of rounding again. q is nil where m is anything else.
func Codes(m Matrix, t DType, group int) (codes Matrix, q *Quant, err error) {
	return codesOf(m, t, group, false)
}

// ZeroCodes is Codes of a matrix that has zero points, nil for any other.
func ZeroCodes(m Matrix, t DType, group int) (codes Matrix, q *Quant, err error) {
	return codesOf(m, t, group, true)
}

func codesOf(m Matrix, t DType, group int, zeros bool) (codes Matrix, q *Quant, err error) {
	switch m.DType() {
	case Int8, Int4, Q8_0, Q4_0:
	default:
		return nil, nil, nil // not loaded to find out
	}
	if m, err = Load(m); err != nil {
		return nil, nil, err
	}
	rows, cols := m.Dims()
	if t != Int8 && t != Int4 || m.DType() != t {
		return nil, nil, nil
	}
	if q = QuantOf(m); q == nil || (q.Zeros != nil) != zeros {
		return nil, nil, nil
	}
	if q = q.regrouped(rows, cols, group); q == nil {
		return nil, nil, nil
	}
	switch x := m.(type) {
	case *Dense:
		c := *x
		c.Quant, codes = nil, &c
	case *NM24:
		c := *x
		c.Quant, codes = nil, &c
	case *Bitmask:
		c := *x
		c.Quant, codes = nil, &c
	case *CSR:
		c := *x
		c.Quant, codes = nil, &c
	}
	return codes, q, nil
}

// regrouped is q with a scale for every group columns, nil where it has scales that end
// inside such a group.
func (q *Quant) regrouped(rows, cols, group int) *Quant {
	whole := func(g int) bool { return g == 0 || g >= cols }
	switch {
	case q.Group == group || whole(q.Group) && whole(group):
		return &Quant{Group: group, Type: q.Type, Scales: q.Scales, Zeros: q.Zeros}
	case whole(group), !whole(q.Group) && q.Group%group != 0:
		return nil
	}
	out := &Quant{Group: group, Type: q.Type}
	n := out.Groups(cols)
	out.Scales = make([]float32, rows*n)
	if q.Zeros != nil {
		out.Zeros = make([]int8, rows*n)
	}
	for i := range out.Scales {
		s, zero := q.Scale(i/n, i%n*group, cols)
		if out.Scales[i] = s; q.Zeros != nil {
			out.Zeros[i] = int8(zero)
		}
	}
	return out
}
