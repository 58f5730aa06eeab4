package tensorop

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sparserun/sparserun/model"
)

func seq(items []*T) []*T { return []*T{{Seq: true, Items: items}} }

func (c *Call) sequence(i int) ([]*T, error) {
	t, err := c.need(i)
	if err == nil && !t.Seq {
		err = fmt.Errorf("input %d is no sequence: %w", i, ErrType)
	}
	if err != nil {
		return nil, err
	}
	return t.Items, nil
}

// place is an index into n items, counted from the end where negative.
func (c *Call) place(i, missing, n int) (int, error) {
	v, err := c.scalar(i, float64(missing))
	if err != nil {
		return 0, err
	}
	return axis(int(v), n)
}

func sequenceConstruct(c *Call) ([]*T, error) {
	for i := range c.In {
		if _, err := c.tensor(i); err != nil {
			return nil, err
		}
	}
	return seq(slices.Clone(c.In)), nil
}

func sequenceEmpty(c *Call) ([]*T, error) { return seq(nil), nil }

func sequenceLength(c *Call) ([]*T, error) {
	s, err := c.sequence(0)
	if err != nil {
		return nil, err
	}
	return []*T{model.I64Tensor([]int64{int64(len(s))})}, nil
}

func sequenceAt(c *Call) ([]*T, error) {
	s, err := c.sequence(0)
	if err != nil {
		return nil, err
	}
	i, err := c.place(1, 0, len(s))
	if err != nil {
		return nil, err
	}
	return []*T{s[i]}, nil
}

func sequenceInsert(c *Call) ([]*T, error) {
	s, err := c.sequence(0)
	if err != nil {
		return nil, err
	}
	t, err := c.tensor(1)
	if err != nil {
		return nil, err
	}
	i := len(s)
	if c.in(2) != nil {
		v, err := c.scalar(2, 0)
		if err != nil {
			return nil, err
		}
		if i = int(v); i < 0 {
			i += len(s)
		}
		if i < 0 || i > len(s) {
			return nil, fmt.Errorf("place %v of %d: %w", v, len(s), ErrShape)
		}
	}
	return seq(slices.Insert(slices.Clone(s), i, t)), nil
}

func sequenceErase(c *Call) ([]*T, error) {
	s, err := c.sequence(0)
	if err != nil {
		return nil, err
	}
	i, err := c.place(1, len(s)-1, len(s))
	if err != nil {
		return nil, err
	}
	return seq(slices.Delete(slices.Clone(s), i, i+1)), nil
}

func splitToSequence(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	ax, err := axis(c.int("axis", 0), len(x.Shape))
	if err != nil {
		return nil, err
	}
	n := x.Shape[ax]
	sizes, err := c.intsIn(1)
	if err != nil {
		return nil, err
	}
	squeezed := sizes == nil && c.int("keepdims", 1) == 0
	switch {
	case sizes == nil:
		sizes = slices.Repeat([]int{1}, n)
	case len(c.In[1].Shape) == 0:
		per := sizes[0]
		if per < 1 {
			return nil, fmt.Errorf("parts of %d: %w", per, ErrShape)
		}
		sizes = nil
		for left := n; left > 0; left -= per {
			sizes = append(sizes, min(per, left))
		}
	}
	ts, err := parts(x, ax, sizes)
	if err != nil {
		return nil, err
	}
	if squeezed {
		for i, t := range ts {
			ts[i] = reshaped(t, slices.Delete(slices.Clone(t.Shape), ax, ax+1)...)
		}
	}
	return seq(ts), nil
}

func concatFromSequence(c *Call) ([]*T, error) {
	s, err := c.sequence(0)
	if err != nil {
		return nil, err
	}
	ax := c.int("axis", 0)
	if c.int("new_axis", 0) == 0 {
		return one(Concat(s, ax))
	}
	wide := make([]*T, len(s))
	for i, t := range s {
		a, err := axis(ax, len(t.Shape)+1)
		if err != nil {
			return nil, err
		}
		wide[i] = reshaped(t, slices.Insert(slices.Clone(t.Shape), a, 1)...)
	}
	return one(Concat(wide, ax))
}

// stringNormalizer drops stop words and changes case ([C] or [1, C]). Case is
// Unicode's, without a locale.
func stringNormalizer(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	words, ok := x.Data.([]string)
	if !ok || len(x.Shape) < 1 || len(x.Shape) > 2 || len(x.Shape) == 2 && x.Shape[0] != 1 {
		return nil, fmt.Errorf("strings of %v %v: %w", x.Elem, x.Shape, ErrShape)
	}
	sensitive := c.int("is_case_sensitive", 0) != 0
	fold := func(s string) string {
		if sensitive {
			return s
		}
		return strings.ToLower(s)
	}
	stop := map[string]bool{}
	for _, s := range c.op.Attrs["stopwords"].Strings {
		stop[fold(s)] = true
	}
	out := []string{}
	for _, s := range words {
		if stop[fold(s)] {
			continue
		}
		switch c.str("case_change_action", "NONE") {
		case "LOWER":
			s = strings.ToLower(s)
		case "UPPER":
			s = strings.ToUpper(s)
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		out = []string{""}
	}
	shape := []int{len(out)}
	if len(x.Shape) == 2 {
		shape = []int{1, len(out)}
	}
	return []*T{{Elem: model.ElemString, Shape: shape, Data: out}}, nil
}
