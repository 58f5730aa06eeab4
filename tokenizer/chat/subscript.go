package chat

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// attr is v.name: a method, or an entry of that name.
func (ev *evaluator) attr(v any, name string) (any, error) {
	switch v := v.(type) {
	case *loopValue:
		if a, ok := v.attr(name); ok {
			return a, nil
		}
	case *space:
		if a, ok := v.values[name]; ok {
			return a, nil
		}
	case *dict:
		if m, ok := dictMethods[name]; ok {
			return bind(v, m), nil
		}
		if a, ok := v.values[name]; ok {
			return a, nil
		}
	case string:
		if m, ok := stringMethods[name]; ok {
			return bind(v, m), nil
		}
	case undefined:
		return nil, fmt.Errorf("%.80q is not defined: %w", v.name, ErrRender)
	}
	return undefined{name}, nil
}

// index is v[i].
func (ev *evaluator) index(v, i any) (any, error) {
	switch v := v.(type) {
	case list:
		if n, ok := integer(i); ok {
			if n < 0 {
				n += int64(len(v))
			}
			if n >= 0 && n < int64(len(v)) {
				return v[n], nil
			}
		}
		return undefined{fmt.Sprint(i)}, nil
	case string:
		if n, ok := integer(i); ok {
			l, err := ev.items(v)
			if err != nil {
				return nil, err
			}
			return ev.index(l, n)
		}
	case *dict:
		s, _ := i.(string)
		if a, ok := v.values[s]; ok && s == i {
			return a, nil
		}
	}
	if s, ok := i.(string); ok {
		return ev.attr(v, s)
	}
	if u, ok := v.(undefined); ok {
		return nil, fmt.Errorf("%.80q is not defined: %w", u.name, ErrRender)
	}
	return undefined{typeName(v)}, nil
}

// slice is of[from:to:step] with Python's rules.
func (ev *evaluator) slice(e *sliceExpr) (any, error) {
	of, err := ev.eval(e.of)
	if err != nil {
		return nil, err
	}
	text, isText := of.(string)
	if _, ok := of.(list); !ok && !isText {
		if u, ok := of.(undefined); ok {
			return nil, fmt.Errorf("%.80q is not defined: %w", u.name, ErrRender)
		}
		return undefined{"slice of a " + typeName(of)}, nil
	}
	items, err := ev.items(of)
	if err != nil {
		return nil, err
	}
	bound := func(e expr, absent int64) (int64, error) {
		if e == nil {
			return absent, nil
		}
		v, err := ev.eval(e)
		if err != nil || v == nil {
			return absent, err
		}
		n, ok := integer(v)
		if !ok {
			return 0, fmt.Errorf("slice: want integers, got a %s: %w", typeName(v), ErrRender)
		}
		return n, nil
	}
	step, err := bound(e.step, 1)
	if err != nil {
		return nil, err
	}
	if step == 0 {
		return nil, fmt.Errorf("slice: want a step: %w", ErrRender)
	}
	n := int64(len(items))
	lo, hi := int64(0), n
	if step < 0 {
		lo, hi = -1, n-1
	}
	clamp := func(i int64) int64 {
		if i < 0 {
			i += n
		}
		return max(lo, min(i, hi))
	}
	const absent = math.MinInt64
	from, err := bound(e.from, absent)
	if err != nil {
		return nil, err
	}
	to, err := bound(e.to, absent)
	if err != nil {
		return nil, err
	}
	first, last := lo, hi
	if step < 0 {
		first, last = hi, lo
	}
	if from != absent {
		first = clamp(from)
	}
	if to != absent {
		last = clamp(to)
	}
	out := list{}
	if err := ev.charge(entryBytes * len(items)); err != nil {
		return nil, err
	}
	step = max(-n-1, min(step, n+1))
	for i := first; step > 0 && i < last || step < 0 && i > last; i += step {
		out = append(out, items[i])
	}
	if !isText {
		return out, nil
	}
	var b strings.Builder
	b.Grow(min(len(text), len(out)*utf8.UTFMax))
	for _, r := range out {
		b.WriteString(r.(string))
	}
	return b.String(), nil
}
