package tensorop

import (
	"fmt"
	"math"
	"sort"

	"github.com/sparserun/sparserun/model"
)

// reduced says which dimensions a reduction takes: attribute axes, or input 1 from
// the opset on in which it became one.
func reduced(c *Call, rank, inputSince int) (set []bool, noop bool, err error) {
	list, given, err := c.listed(inputSince)
	if err != nil {
		return nil, false, err
	}
	if !given || len(list) == 0 {
		if c.int("noop_with_empty_axes", 0) != 0 {
			return nil, true, nil
		}
		set = make([]bool, rank)
		for i := range set {
			set[i] = true
		}
		return set, false, nil
	}
	set, err = axes(list, rank)
	return set, false, err
}

// groups lists the elements that fall into each output of a reduction: base
// positions and offsets from them.
func groups(shape []int, set []bool) (base, inside []int) {
	st := steps(shape)
	var outer, inner, so, si []int
	for i, d := range shape {
		if set[i] {
			inner, si = append(inner, d), append(si, st[i])
		} else {
			outer, so = append(outer, d), append(so, st[i])
		}
	}
	return positions(outer, so, 0), positions(inner, si, 0)
}

func keptShape(shape []int, set []bool, keep bool) []int {
	out := []int{}
	for i, d := range shape {
		switch {
		case !set[i]:
			out = append(out, d)
		case keep:
			out = append(out, 1)
		}
	}
	return out
}

// reduce folds elements in float64 (integers in int64 where they are added up).
func reduce(op string) Func {
	since := 18
	if op == "ReduceSum" {
		since = 13
	}
	return narrow(func(c *Call) ([]*T, error) {
		x, err := c.tensor(0)
		if err != nil {
			return nil, err
		}
		set, noop, err := reduced(c, len(x.Shape), since)
		if err != nil {
			return nil, err
		}
		if noop {
			set = make([]bool, len(x.Shape)) // each element alone
			if op == "ReduceSum" || op == "ReduceMean" || op == "ReduceMax" || op == "ReduceMin" || op == "ReduceProd" {
				return []*T{x}, nil
			}
		}
		shape := keptShape(x.Shape, set, c.int("keepdims", 1) != 0)
		if d, ok := x.Data.([]int64); ok && op == "ReduceSum" {
			base, inside := groups(x.Shape, set)
			out, err := make0(x.Elem, shape...)
			if err != nil {
				return nil, err
			}
			for k, p := range base {
				for _, q := range inside {
					out.Data.([]int64)[k] += d[p+q]
				}
			}
			return []*T{out}, nil
		}
		get, err := reader(x)
		if err != nil {
			return nil, err
		}
		base, inside := groups(x.Shape, set)
		out, err := make0(model.ElemF64, shape...)
		if err != nil {
			return nil, err
		}
		o := out.Data.([]float64)
		if len(o) != len(base) {
			// An outer dimension of size zero.
			return one(Cast(out, x.Elem, true))
		}
		fold(op, o, base, inside, get)
		if len(inside) == 0 && (op == "ReduceMax" || op == "ReduceMin") && !x.Elem.Float() {
			emptyExtremes(o, op, x.Elem)
		}
		return one(Cast(out, x.Elem, true))
	})
}

// emptyExtremes: the extreme of no integers is the type's other end.
func emptyExtremes(o []float64, op string, e model.Elem) {
	bits := e.Bits()
	lo, hi := -math.Ldexp(1, bits-1), math.Ldexp(1, bits-1)-1
	switch e {
	case model.ElemU8, model.ElemU16, model.ElemU32, model.ElemU64:
		lo, hi = 0, math.Ldexp(1, bits)-1
	case model.ElemBool:
		lo, hi = 0, 1
	}
	for i := range o {
		o[i] = lo
		if op == "ReduceMin" {
			o[i] = hi
		}
	}
}

func fold(op string, o []float64, base, inside []int, get func(int) float64) {
	for k, p := range base {
		acc := 0.0
		switch op {
		case "ReduceSum", "ReduceMean", "ReduceLogSum":
			for _, q := range inside {
				acc += get(p + q)
			}
			if op == "ReduceMean" {
				acc /= float64(len(inside))
			}
			if op == "ReduceLogSum" {
				acc = math.Log(acc)
			}
		case "ReduceSumSquare", "ReduceL2":
			for _, q := range inside {
				v := get(p + q)
				acc += v * v
			}
			if op == "ReduceL2" {
				acc = math.Sqrt(acc)
			}
		case "ReduceL1":
			for _, q := range inside {
				acc += math.Abs(get(p + q))
			}
		case "ReduceProd":
			acc = 1
			for _, q := range inside {
				acc *= get(p + q)
			}
		case "ReduceMax":
			acc = math.Inf(-1)
			for _, q := range inside {
				acc = max(acc, get(p+q))
			}
		case "ReduceMin":
			acc = math.Inf(1)
			for _, q := range inside {
				acc = min(acc, get(p+q))
			}
		case "ReduceLogSumExp":
			top := math.Inf(-1)
			for _, q := range inside {
				top = max(top, get(p+q))
			}
			if math.IsInf(top, 0) {
				acc = top
				break
			}
			for _, q := range inside {
				acc += math.Exp(get(p+q) - top)
			}
			acc = top + math.Log(acc)
		}
		o[k] = acc
	}
}

// arg is the index of the largest (or smallest) along an axis.
func arg(largest bool) Func {
	return func(c *Call) ([]*T, error) {
		x, err := c.tensor(0)
		if err != nil {
			return nil, err
		}
		ax, err := axis(c.int("axis", 0), len(x.Shape))
		if err != nil {
			return nil, err
		}
		get, err := reader(x)
		if err != nil {
			return nil, err
		}
		if x.Shape[ax] == 0 {
			return nil, fmt.Errorf("largest of none: %w", ErrShape)
		}
		set := make([]bool, len(x.Shape))
		set[ax] = true
		base, inside := groups(x.Shape, set)
		last := c.int("select_last_index", 0) != 0
		out := make([]int64, len(base))
		for k, p := range base {
			best := get(p)
			for i, q := range inside[1:] {
				v := get(p + q)
				if largest && v > best || !largest && v < best || last && v == best {
					best, out[k] = v, int64(i+1)
				}
			}
		}
		return []*T{model.I64Tensor(out, keptShape(x.Shape, set, c.int("keepdims", 1) != 0)...)}, nil
	}
}

func topK(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	k := c.int("k", -1)
	if c.version() >= 10 {
		f, err := c.scalar(1, -1)
		if err != nil {
			return nil, err
		}
		k = int(max(-1, min(1<<48, f)))
	}
	ax, err := axis(c.int("axis", -1), len(x.Shape))
	if err != nil {
		return nil, err
	}
	n := x.Shape[ax]
	if k < 0 || k > n {
		return nil, fmt.Errorf("top %d of %d: %w", k, n, ErrShape)
	}
	get, err := reader(x)
	if err != nil {
		return nil, err
	}
	largest := c.int("largest", 1) != 0
	set := make([]bool, len(x.Shape))
	set[ax] = true
	base, inside := groups(x.Shape, set)
	shape := append([]int(nil), x.Shape...)
	shape[ax] = k
	from := make([]int, product(shape))
	idx := make([]int64, len(from))
	inner := product(x.Shape[ax+1:])
	order := make([]int, n)
	for b, p := range base {
		for i := range order {
			order[i] = i
		}
		sort.SliceStable(order, func(i, j int) bool {
			u, v := get(p+inside[order[i]]), get(p+inside[order[j]])
			if largest {
				return u > v
			}
			return u < v
		})
		for i := range k {
			at := (b/inner*k+i)*inner + b%inner
			from[at], idx[at] = p+inside[order[i]], int64(order[i])
		}
	}
	v, err := picked(x, from, 1, shape...)
	if err != nil {
		return nil, err
	}
	return []*T{v, model.I64Tensor(idx, shape...)}, nil
}

func cumulate(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	a, err := c.scalar(1, 0)
	if err != nil {
		return nil, err
	}
	ax, err := axis(int(a), len(x.Shape))
	if err != nil {
		return nil, err
	}
	get, err := reader(x)
	if err != nil {
		return nil, err
	}
	out, err := make0(model.ElemF64, x.Shape...)
	if err != nil {
		return nil, err
	}
	o := out.Data.([]float64)
	exclusive, reverse := c.int("exclusive", 0) != 0, c.int("reverse", 0) != 0
	set := make([]bool, len(x.Shape))
	set[ax] = true
	base, inside := groups(x.Shape, set)
	unit := 0.0
	if c.Node.Op == "CumProd" {
		unit = 1
	}
	for _, p := range base {
		acc := unit
		for i := range inside {
			if reverse {
				i = len(inside) - 1 - i
			}
			q := p + inside[i]
			was := acc
			if c.Node.Op == "CumProd" {
				acc *= get(q)
			} else {
				acc += get(q)
			}
			o[q] = acc
			if exclusive {
				o[q] = was
			}
		}
	}
	return one(Cast(out, x.Elem, true))
}
