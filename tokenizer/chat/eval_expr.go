package chat

import (
	"fmt"
	"slices"
	"strings"
)

func (ev *evaluator) eval(e expr) (any, error) {
	if err := ev.step(0); err != nil {
		return nil, err
	}
	switch e := e.(type) {
	case constExpr:
		return e.v, nil
	case nameExpr:
		return ev.name(e.name), nil
	case *listExpr:
		return ev.all(e.items)
	case *dictExpr:
		return ev.dict(e)
	case *attrExpr:
		of, err := ev.eval(e.of)
		if err != nil {
			return nil, err
		}
		return ev.attr(of, e.name)
	case *indexExpr:
		of, err := ev.eval(e.of)
		if err != nil {
			return nil, err
		}
		index, err := ev.eval(e.index)
		if err != nil {
			return nil, err
		}
		return ev.index(of, index)
	case *sliceExpr:
		return ev.slice(e)
	case *callExpr:
		f, err := ev.eval(e.f)
		if err != nil {
			return nil, err
		}
		g, ok := f.(function)
		if !ok {
			if u, ok := f.(undefined); ok {
				return nil, fmt.Errorf("%.80q is not defined: %w", u.name, ErrRender)
			}
			return nil, fmt.Errorf("a %s cannot be called: %w", typeName(f), ErrRender)
		}
		args, kw, err := ev.args(e, nil)
		if err != nil {
			return nil, err
		}
		return g(ev, args, kw)
	case *filterExpr:
		of, err := ev.eval(e.of)
		if err != nil {
			return nil, err
		}
		args, kw, err := ev.args(e.call, []any{of})
		if err != nil {
			return nil, err
		}
		v, err := filters[e.name](ev, args, kw)
		if err != nil {
			return nil, fmt.Errorf("filter %s: %w", e.name, err)
		}
		return v, nil
	case *testExpr:
		of, err := ev.eval(e.of)
		if err != nil {
			return nil, err
		}
		args, err := ev.all(e.args)
		if err != nil {
			return nil, err
		}
		return tests[e.name].f(ev, of, args)
	case *unaryExpr:
		return ev.unary(e)
	case *binaryExpr:
		return ev.binary(e)
	case *compareExpr:
		return ev.compareAll(e)
	case *condExpr:
		cond, err := ev.eval(e.cond)
		if err != nil {
			return nil, err
		}
		if truth(cond) {
			return ev.eval(e.then)
		}
		if e.alt == nil {
			return undefined{"else"}, nil
		}
		return ev.eval(e.alt)
	}
	return nil, fmt.Errorf("expression %T: %w", e, ErrRender)
}

func (ev *evaluator) all(es []expr) (list, error) {
	if err := ev.charge(entryBytes * (len(es) + 1)); err != nil {
		return nil, err
	}
	l := make(list, len(es))
	for i, e := range es {
		v, err := ev.eval(e)
		if err != nil {
			return nil, err
		}
		l[i] = v
	}
	return l, nil
}

func (ev *evaluator) args(c *callExpr, args []any) ([]any, map[string]any, error) {
	more, err := ev.all(c.args)
	if err != nil {
		return nil, nil, err
	}
	values, err := ev.all(c.kw)
	if err != nil {
		return nil, nil, err
	}
	kw := make(map[string]any, len(values))
	for i, name := range c.kwName {
		kw[name] = values[i]
	}
	return append(args, more...), kw, nil
}

func (ev *evaluator) dict(e *dictExpr) (any, error) {
	keys, err := ev.all(e.keys)
	if err != nil {
		return nil, err
	}
	values, err := ev.all(e.values)
	if err != nil {
		return nil, err
	}
	if err := ev.charge(mapBytes); err != nil {
		return nil, err
	}
	d := &dict{}
	for i, k := range keys {
		s, ok := k.(string)
		if !ok {
			return nil, fmt.Errorf("dict: want keys of type str, got %s: %w", typeName(k), ErrRender)
		}
		d.set(s, values[i])
	}
	return d, nil
}

func (ev *evaluator) unary(e *unaryExpr) (any, error) {
	v, err := ev.eval(e.e)
	if err != nil {
		return nil, err
	}
	if e.op == "not" {
		return !truth(v), nil
	}
	n, isInt := integer(v)
	f, ok := number(v)
	switch {
	case !ok:
		return nil, fmt.Errorf("%s of a %s: %w", e.op, typeName(v), ErrRender)
	case e.op == "+":
		return v, nil
	case isInt:
		return -n, nil
	}
	return -f, nil
}

func (ev *evaluator) binary(e *binaryExpr) (any, error) {
	l, err := ev.eval(e.l)
	if err != nil {
		return nil, err
	}
	switch {
	case e.op == "and" && !truth(l), e.op == "or" && truth(l):
		return l, nil
	}
	r, err := ev.eval(e.r)
	if err != nil {
		return nil, err
	}
	switch e.op {
	case "and", "or":
		return r, nil
	case "~":
		a, err := ev.str(l)
		if err != nil {
			return nil, err
		}
		b, err := ev.str(r)
		if err != nil {
			return nil, err
		}
		return ev.join(a, b)
	}
	return ev.arithmetic(e.op, l, r)
}

func (ev *evaluator) join(a, b string) (any, error) {
	if err := ev.charge(len(a) + len(b)); err != nil {
		return nil, err
	}
	return a + b, nil
}

func (ev *evaluator) compareAll(e *compareExpr) (any, error) {
	l, err := ev.eval(e.first)
	if err != nil {
		return nil, err
	}
	for i, op := range e.ops {
		r, err := ev.eval(e.rest[i])
		if err != nil {
			return nil, err
		}
		ok, err := ev.compare(op, l, r)
		if err != nil || !ok {
			return false, err
		}
		l = r
	}
	return true, nil
}

func (ev *evaluator) compare(op string, l, r any) (bool, error) {
	switch op {
	case "==", "!=":
		same, err := ev.equal(l, r, 0)
		return same == (op == "=="), err
	case "in", "not in":
		has, err := ev.contains(r, l)
		return has == (op == "in"), err
	}
	c := 0
	x, ok1 := number(l)
	y, ok2 := number(r)
	s, ok3 := l.(string)
	t, ok4 := r.(string)
	switch {
	case ok1 && ok2 && x < y:
		c = -1
	case ok1 && ok2 && x > y:
		c = 1
	case ok1 && ok2 && x == y:
	case ok3 && ok4:
		c = strings.Compare(s, t)
	default:
		return false, fmt.Errorf("%s %s %s: %w", typeName(l), op, typeName(r), ErrRender)
	}
	switch op {
	case "<":
		return c < 0, nil
	case "<=":
		return c <= 0, nil
	case ">":
		return c > 0, nil
	}
	return c >= 0, nil
}

// contains is "v in of".
func (ev *evaluator) contains(of, v any) (bool, error) {
	switch of := of.(type) {
	case string:
		s, ok := v.(string)
		if !ok {
			return false, fmt.Errorf("%s in str: %w", typeName(v), ErrRender)
		}
		return strings.Contains(of, s), ev.charge(len(of) / 16)
	case *dict:
		s, ok := v.(string)
		_, has := of.values[s]
		return ok && has, nil
	}
	items, err := ev.items(of)
	if err != nil {
		return false, err
	}
	var failed error
	has := slices.ContainsFunc(items, func(w any) bool {
		same, err := ev.equal(v, w, 0)
		if err != nil {
			failed = err
		}
		return same || err != nil
	})
	return has && failed == nil, failed
}
