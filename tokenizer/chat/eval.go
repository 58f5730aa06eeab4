package chat

import (
	"context"
	"errors"
	"fmt"
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

func (ev *evaluator) name(name string) any {
	for i := len(ev.scopes) - 1; i >= 0; i-- {
		if v, ok := ev.scopes[i][name]; ok {
			return v
		}
	}
	return undefined{name}
}

// Functions of templates.
