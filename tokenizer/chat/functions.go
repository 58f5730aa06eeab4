package chat

import (
	"fmt"
	"math"
)

func raiseException(ev *evaluator, args []any, _ map[string]any) (any, error) {
	text := ""
	if len(args) > 0 {
		var err error
		if text, err = ev.str(args[0]); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%.200q: %w", text, ErrRaised)
}

func newNamespace(ev *evaluator, args []any, kw map[string]any) (any, error) {
	if err := ev.charge(mapBytes); err != nil {
		return nil, err
	}
	s := &space{map[string]any{}}
	for _, a := range args {
		d, ok := a.(*dict)
		if !ok {
			return nil, fmt.Errorf("namespace: want a dict, got a %s: %w", typeName(a), ErrRender)
		}
		for k, v := range d.values {
			s.values[k] = v
		}
	}
	for k, v := range kw {
		s.values[k] = v
	}
	return s, nil
}

func newDict(ev *evaluator, args []any, kw map[string]any) (any, error) {
	if err := ev.charge(mapBytes); err != nil {
		return nil, err
	}
	if len(args) > 0 {
		return nil, fmt.Errorf("dict: want named arguments: %w", ErrRender)
	}
	d := &dict{}
	for _, k := range sortedKeys(kw) {
		d.set(k, kw[k])
	}
	return d, nil
}

func rangeOf(ev *evaluator, args []any, _ map[string]any) (any, error) {
	var n [3]int64
	for i, a := range args {
		v, ok := integer(a)
		if !ok || i > 2 {
			return nil, fmt.Errorf("range: want one to three integers: %w", ErrRender)
		}
		n[i] = v
	}
	from, to, by := n[0], n[1], n[2]
	switch len(args) {
	case 0:
		return nil, fmt.Errorf("range: want one to three integers: %w", ErrRender)
	case 1:
		from, to, by = 0, n[0], 1
	case 2:
		by = 1
	}
	if by == 0 {
		return nil, fmt.Errorf("range: want a step: %w", ErrRender)
	}
	count := math.Ceil((float64(to) - float64(from)) / float64(by))
	if count <= 0 {
		return list{}, nil
	}
	if count > 1<<20 {
		return nil, fmt.Errorf("range of %v: %w", count, ErrLimit)
	}
	if err := ev.charge(entryBytes * int(count)); err != nil {
		return nil, err
	}
	l := make(list, int(count))
	for i := range l {
		l[i] = from + int64(i)*by
	}
	return l, nil
}
