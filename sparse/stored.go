package sparse

// Stored is a Matrix whose numbers still lie in a file. Load reads it into
// memory in its own form: the layout, type and scales of the file where a form
// of this package holds them exactly, otherwise dense f32.
type Stored interface {
	Matrix
	Load() (Matrix, error)
}

// Load returns m in memory; a matrix that is there already is returned as it is.
func Load(m Matrix) (Matrix, error) {
	if s, ok := m.(Stored); ok {
		return s.Load()
	}
	return m, nil
}

// QuantOf is the scales of a matrix in memory, nil where it has none.
func QuantOf(m Matrix) *Quant {
	switch x := m.(type) {
	case *Dense:
		return x.Quant
	case *NM24:
		return x.Quant
	case *Bitmask:
		return x.Quant
	case *CSR:
		return x.Quant
	}
	return nil
}
