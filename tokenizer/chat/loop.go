package chat

import (
	"fmt"
)

func (ev *evaluator) loop(s *forStmt) error {
	v, err := ev.eval(s.over)
	if err != nil {
		return err
	}
	items, err := ev.items(v)
	if err != nil {
		return err
	}
	depth := len(ev.scopes)
	defer func() { ev.scopes = ev.scopes[:depth] }()
	if s.filter != nil {
		var kept list
		scope := map[string]any{}
		for _, item := range items {
			ev.scopes = append(ev.scopes[:depth], scope)
			if err := ev.assign(scope, s.targets, item); err != nil {
				return err
			}
			ok, err := ev.eval(s.filter)
			if err != nil {
				return err
			}
			if truth(ok) {
				if err := ev.charge(entryBytes); err != nil {
					return err
				}
				kept = append(kept, item)
			}
		}
		ev.scopes = ev.scopes[:depth]
		items = kept
	}
	if len(items) == 0 {
		return ev.run(s.alt)
	}
	scope := map[string]any{}
	for i, item := range items {
		if err := ev.step(0); err != nil {
			return err
		}
		clear(scope)
		scope["loop"] = &loopValue{items, i}
		ev.scopes = append(ev.scopes[:depth], scope)
		if err := ev.assign(scope, s.targets, item); err != nil {
			return err
		}
		switch err := ev.run(s.body); err {
		case nil, errContinue:
		case errBreak:
			return nil
		default:
			return err
		}
	}
	return nil
}

// loopValue is the variable loop.
type loopValue struct {
	items list
	i     int
}

func (l *loopValue) attr(name string) (any, bool) {
	n := len(l.items)
	neighbour := func(i int) any {
		if i < 0 || i >= n {
			return undefined{"loop." + name}
		}
		return l.items[i]
	}
	switch name {
	case "index":
		return int64(l.i + 1), true
	case "index0":
		return int64(l.i), true
	case "revindex":
		return int64(n - l.i), true
	case "revindex0":
		return int64(n - l.i - 1), true
	case "first":
		return l.i == 0, true
	case "last":
		return l.i == n-1, true
	case "length":
		return int64(n), true
	case "previtem":
		return neighbour(l.i - 1), true
	case "nextitem":
		return neighbour(l.i + 1), true
	case "cycle":
		return function(func(_ *evaluator, args []any, _ map[string]any) (any, error) {
			if len(args) == 0 {
				return nil, fmt.Errorf("loop.cycle: want values: %w", ErrRender)
			}
			return args[l.i%len(args)], nil
		}), true
	}
	return nil, false
}
