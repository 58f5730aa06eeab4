package tensorop

import "github.com/sparserun/sparserun/model"

// data moves elements of any type: what ops that compute nothing are made of.
type data interface {
	// copy copies n elements from position j of src, of the same type, to i.
	copy(i int, src data, j, n int)
	// gather sets runs of n elements: run k from position idx[k]; a negative one is
	// left as it is.
	gather(src data, idx []int, n int)
	// fill sets n elements from i on to element j of src.
	fill(i, n int, src data, j int)
}

type vec[E any] []E

func (v vec[E]) copy(i int, src data, j, n int) { copy(v[i:i+n], src.(vec[E])[j:j+n]) }

func (v vec[E]) gather(src data, idx []int, n int) {
	s := src.(vec[E])
	if n == 1 {
		for k, j := range idx {
			if j >= 0 {
				v[k] = s[j]
			}
		}
		return
	}
	for k, j := range idx {
		if j >= 0 {
			copy(v[k*n:(k+1)*n], s[j:j+n])
		}
	}
}

func (v vec[E]) fill(i, n int, src data, j int) {
	x := src.(vec[E])[j]
	for k := i; k < i+n; k++ {
		v[k] = x
	}
}

// column views a tensor's elements.
func column(t *T) data {
	switch d := t.Data.(type) {
	case []float32:
		return vec[float32](d)
	case []float64:
		return vec[float64](d)
	case []int8:
		return vec[int8](d)
	case []int16:
		return vec[int16](d)
	case []int32:
		return vec[int32](d)
	case []int64:
		return vec[int64](d)
	case []uint8:
		return vec[uint8](d)
	case []uint16:
		return vec[uint16](d)
	case []uint32:
		return vec[uint32](d)
	case []uint64:
		return vec[uint64](d)
	case []bool:
		return vec[bool](d)
	case []string:
		return vec[string](d)
	}
	return vec[model.Elem](nil)
}

// picked is a tensor of the given shape whose runs of n elements come from
// positions idx of t.
func picked(t *T, idx []int, n int, shape ...int) (*T, error) {
	out, err := make0(t.Elem, shape...)
	if err != nil {
		return nil, err
	}
	if len(idx) > 0 && n > 0 {
		column(out).gather(column(t), idx, n)
	}
	return out, nil
}
