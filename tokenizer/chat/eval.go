package chat

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// evaluator renders one template once.
type evaluator struct {
	out    strings.Builder
	scopes []map[string]any

	steps, bytes int // still allowed
	deadline     time.Time
	ctx          context.Context
}

func newEvaluator(o Options) *evaluator {
	l := o.Limits
	if l.Steps <= 0 {
		l.Steps = DefaultLimits.Steps
	}
	if l.Bytes <= 0 {
		l.Bytes = DefaultLimits.Bytes
	}
	if l.Time <= 0 {
		l.Time = DefaultLimits.Time
	}
	return &evaluator{steps: l.Steps, bytes: l.Bytes, deadline: time.Now().Add(l.Time), ctx: o.Context}
}

// step counts one step of work at a nesting of values.
func (ev *evaluator) step(depth int) error {
	ev.steps--
	switch {
	case ev.steps < 0:
		return fmt.Errorf("too many steps: %w", ErrLimit)
	case depth > maxValueDepth:
		return fmt.Errorf("values nested deeper than %d: %w", maxValueDepth, ErrLimit)
	case ev.steps%256 == 0:
		return ev.clock()
	}
	return nil
}

func (ev *evaluator) clock() error {
	if ev.ctx != nil && ev.ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ev.ctx.Err(), ErrLimit)
	}
	if time.Now().After(ev.deadline) {
		return fmt.Errorf("out of time: %w", ErrLimit)
	}
	return nil
}

// charge counts n bytes about to be made. Work on strings is linear in them, so
// large ones look at the clock as well.
func (ev *evaluator) charge(n int) error {
	if n < 0 || n > ev.bytes {
		return fmt.Errorf("too many bytes: %w", ErrLimit)
	}
	ev.bytes -= n
	if n > 1<<16 {
		return ev.clock()
	}
	return nil
}

// What an entry of a list or dict is charged, and a dict or namespace itself.
const (
	entryBytes = 32
	mapBytes   = 512
)

// Jumps out of a loop travel as errors.
var (
	errBreak    = errors.New("break")
	errContinue = errors.New("continue")
)

func (ev *evaluator) run(body []stmt) error {
	for _, s := range body {
		if err := ev.step(0); err != nil {
			return err
		}
		if err := ev.stmt(s); err != nil {
			return err
		}
	}
	return nil
}

func (ev *evaluator) write(s string) error {
	if err := ev.charge(len(s)); err != nil {
		return err
	}
	ev.out.WriteString(s)
	return nil
}

func (ev *evaluator) stmt(s stmt) error {
	switch s := s.(type) {
	case textStmt:
		return ev.write(s.text)
	case outputStmt:
		v, err := ev.eval(s.e)
		if err != nil {
			return err
		}
		text, err := ev.str(v)
		if err != nil {
			return err
		}
		return ev.write(text)
	case *ifStmt:
		v, err := ev.eval(s.cond)
		if err != nil {
			return err
		}
		if truth(v) {
			return ev.run(s.then)
		}
		return ev.run(s.alt)
	case *forStmt:
		return ev.loop(s)
	case *setStmt:
		return ev.set(s)
	case jumpStmt:
		if s.brk {
			return errBreak
		}
		return errContinue
	}
	return nil
}

func (ev *evaluator) set(s *setStmt) error {
	var v any
	var err error
	if s.value != nil {
		v, err = ev.eval(s.value)
	} else {
		outer := ev.out
		ev.out = strings.Builder{}
		ev.scopes = append(ev.scopes, map[string]any{})
		err = ev.run(s.body)
		ev.scopes = ev.scopes[:len(ev.scopes)-1]
		v, ev.out = ev.out.String(), outer
	}
	if err != nil {
		return err
	}
	if s.attr != "" {
		ns, ok := ev.name(s.names[0]).(*space)
		if !ok {
			return fmt.Errorf("%s is no namespace: %w", s.names[0], ErrRender)
		}
		ns.values[s.attr] = v
		return nil
	}
	return ev.assign(ev.scopes[len(ev.scopes)-1], s.names, v)
}

// assign gives names their values: one name takes all of v.
func (ev *evaluator) assign(scope map[string]any, names []string, v any) error {
	if len(names) == 1 {
		scope[names[0]] = v
		return nil
	}
	items, err := ev.items(v)
	if err != nil {
		return err
	}
	if len(items) != len(names) {
		return fmt.Errorf("want %d values to unpack, got %d: %w", len(names), len(items), ErrRender)
	}
	for i, n := range names {
		scope[n] = items[i]
	}
	return nil
}

// items lists what iterating over v gives.
func (ev *evaluator) items(v any) (list, error) {
	switch v := v.(type) {
	case list:
		return v, nil
	case undefined:
		return nil, nil
	case *dict:
		if err := ev.charge(entryBytes * len(v.keys)); err != nil {
			return nil, err
		}
		l := make(list, len(v.keys))
		for i, key := range v.keys {
			l[i] = key
		}
		return l, nil
	case string:
		if err := ev.charge(entryBytes * len(v)); err != nil {
			return nil, err
		}
		l := make(list, 0, len(v))
		for len(v) > 0 {
			_, n := utf8.DecodeRuneInString(v)
			l = append(l, v[:n])
			v = v[n:]
		}
		return l, nil
	}
	return nil, fmt.Errorf("a %s cannot be iterated over: %w", typeName(v), ErrRender)
}

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
		for _, item := range items {
			scope := map[string]any{}
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
	for i, item := range items {
		if err := ev.step(0); err != nil {
			return err
		}
		scope := map[string]any{"loop": &loopValue{items, i}}
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

func (ev *evaluator) name(name string) any {
	for i := len(ev.scopes) - 1; i >= 0; i-- {
		if v, ok := ev.scopes[i][name]; ok {
			return v
		}
	}
	return undefined{name}
}

// Functions of templates.

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
