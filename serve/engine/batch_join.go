package engine

import (
	"math"
	"slices"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// join puts tensors of one type and one shape but for the first dimension one after
// another, rows in all.
func join(parts []*model.Tensor, rows int) *model.Tensor {
	t := &model.Tensor{Elem: parts[0].Elem, Shape: append([]int{rows}, parts[0].Shape[1:]...)}
	switch parts[0].Data.(type) {
	case []float32:
		t.Data = joinOf[float32](parts)
	case []float64:
		t.Data = joinOf[float64](parts)
	case []int8:
		t.Data = joinOf[int8](parts)
	case []int16:
		t.Data = joinOf[int16](parts)
	case []int32:
		t.Data = joinOf[int32](parts)
	case []int64:
		t.Data = joinOf[int64](parts)
	case []uint8:
		t.Data = joinOf[uint8](parts)
	case []uint16:
		t.Data = joinOf[uint16](parts)
	case []uint32:
		t.Data = joinOf[uint32](parts)
	case []uint64:
		t.Data = joinOf[uint64](parts)
	case []bool:
		t.Data = joinOf[bool](parts)
	case []string:
		t.Data = joinOf[string](parts)
	}
	return t
}

func joinOf[T any](parts []*model.Tensor) []T {
	all := make([][]T, len(parts))
	for i, p := range parts {
		all[i] = p.Data.([]T)
	}
	return slices.Concat(all...)
}

// cut is n rows of t from row at; no copy.
func cut(t *model.Tensor, at, n int) *model.Tensor {
	c := &model.Tensor{Elem: t.Elem, Shape: append([]int{n}, t.Shape[1:]...)}
	per := c.Len() / n
	switch d := t.Data.(type) {
	case []float32:
		c.Data = rowsOf(d, at, n, per)
	case []float64:
		c.Data = rowsOf(d, at, n, per)
	case []int8:
		c.Data = rowsOf(d, at, n, per)
	case []int16:
		c.Data = rowsOf(d, at, n, per)
	case []int32:
		c.Data = rowsOf(d, at, n, per)
	case []int64:
		c.Data = rowsOf(d, at, n, per)
	case []uint8:
		c.Data = rowsOf(d, at, n, per)
	case []uint16:
		c.Data = rowsOf(d, at, n, per)
	case []uint32:
		c.Data = rowsOf(d, at, n, per)
	case []uint64:
		c.Data = rowsOf(d, at, n, per)
	case []bool:
		c.Data = rowsOf(d, at, n, per)
	case []string:
		c.Data = rowsOf(d, at, n, per)
	}
	return c
}

func rowsOf[T any](d []T, at, n, per int) []T {
	return d[at*per : (at+n)*per : (at+n)*per]
}

// distance is the largest difference of two tensors' numbers, and the size of the
// largest of them; +Inf where they differ in type, shape or what is no number.
func distance(a, b *model.Tensor) (d, scale float64) {
	if a == nil || b == nil || a.Seq != b.Seq || a.Elem != b.Elem || !slices.Equal(a.Shape, b.Shape) || len(a.Items) != len(b.Items) {
		return math.Inf(1), 0
	}
	for i := range a.Items {
		e, s := distance(a.Items[i], b.Items[i])
		d, scale = max(d, e), max(scale, s)
	}
	if a.Seq {
		return d, scale
	}
	number := func(x any, i int) float64 {
		switch v := x.(type) {
		case []float32:
			return float64(v[i])
		case []float64:
			return v[i]
		case []uint16:
			switch a.Elem {
			case model.ElemF16:
				return float64(sparse.F16ToF32(v[i]))
			case model.ElemBF16:
				return float64(sparse.BF16ToF32(v[i]))
			}
			return float64(v[i])
		case []int8:
			return float64(v[i])
		case []int16:
			return float64(v[i])
		case []int32:
			return float64(v[i])
		case []int64:
			return float64(v[i])
		case []uint8:
			return float64(v[i])
		case []uint32:
			return float64(v[i])
		case []uint64:
			return float64(v[i])
		case []bool:
			if v[i] {
				return 1
			}
		}
		return 0
	}
	if x, ok := a.Data.([]string); ok {
		if !slices.Equal(x, b.Data.([]string)) {
			return math.Inf(1), 0
		}
		return 0, 0
	}
	for i := range a.Len() {
		x, y := number(a.Data, i), number(b.Data, i)
		scale = max(scale, math.Abs(x))
		if x != y && !(math.IsNaN(x) && math.IsNaN(y)) {
			e := math.Abs(x - y)
			if math.IsNaN(e) {
				e = math.Inf(1)
			}
			d = max(d, e)
		}
	}
	return d, scale
}
