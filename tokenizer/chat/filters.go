package chat

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// filters by name. The value filtered is the first argument.
var filters = map[string]function{
	"trim":       onText(strip),
	"upper":      onText(upper),
	"lower":      onText(lower),
	"capitalize": onText(capitalize),
	"title":      onText(title),
	"replace":    onText(replaceText),
	"string":     onText(func(_ *evaluator, s string, _ []any) (any, error) { return s, nil }),
	"safe":       onText(func(_ *evaluator, s string, _ []any) (any, error) { return s, nil }),
	"length":     length,
	"count":      length,
	"default":    defaultTo,
	"d":          defaultTo,
	"join":       joinList,
	"first":      first,
	"last":       last,
	"list":       func(ev *evaluator, args []any, _ map[string]any) (any, error) { return ev.items(args[0]) },
	"reverse":    reverse,
	"items":      dictItems,
	"int":        toInt,
	"tojson":     toJSON,
	"map":        mapAttr,
	"selectattr": func(ev *evaluator, args []any, _ map[string]any) (any, error) { return ev.selectAttr(args, true) },
	"rejectattr": func(ev *evaluator, args []any, _ map[string]any) (any, error) { return ev.selectAttr(args, false) },
}

// onText makes a filter of a method of strings: other values are written first.
func onText(m method) function {
	return func(ev *evaluator, args []any, _ map[string]any) (any, error) {
		s, err := ev.str(args[0])
		if err != nil {
			return nil, err
		}
		return m(ev, s, args[1:])
	}
}

// argument is positional argument i or named argument name, else absent.
func argument(args []any, i int, kw map[string]any, name string, absent any) any {
	if i < len(args) {
		return args[i]
	}
	if v, ok := kw[name]; ok {
		return v
	}
	return absent
}

func length(_ *evaluator, args []any, _ map[string]any) (any, error) {
	switch v := args[0].(type) {
	case string:
		return int64(utf8.RuneCountInString(v)), nil
	case list:
		return int64(len(v)), nil
	case *dict:
		return int64(len(v.keys)), nil
	case undefined:
		return int64(0), nil
	}
	return nil, fmt.Errorf("a %s has no length: %w", typeName(args[0]), ErrRender)
}

func defaultTo(_ *evaluator, args []any, kw map[string]any) (any, error) {
	_, absent := args[0].(undefined)
	if absent || truth(argument(args, 2, kw, "boolean", false)) && !truth(args[0]) {
		return argument(args, 1, kw, "default_value", ""), nil
	}
	return args[0], nil
}

func joinList(ev *evaluator, args []any, kw map[string]any) (any, error) {
	items, err := ev.items(args[0])
	if err != nil {
		return nil, err
	}
	sep, err := ev.str(argument(args, 1, kw, "d", ""))
	if err != nil {
		return nil, err
	}
	if attr, _ := argument(args, 2, kw, "attribute", "").(string); attr != "" {
		v, err := mapAttr(ev, []any{items}, map[string]any{"attribute": attr})
		if err != nil {
			return nil, err
		}
		items = v.(list)
	}
	return ev.joinItems(items, sep)
}

func (ev *evaluator) joinItems(items list, sep string) (any, error) {
	var b strings.Builder
	for i, v := range items {
		s, err := ev.str(v)
		if err == nil {
			err = ev.step(0)
		}
		if err == nil {
			err = ev.charge(len(s) + len(sep))
		}
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b.WriteString(sep)
		}
		b.WriteString(s)
	}
	return b.String(), nil
}

func first(ev *evaluator, args []any, _ map[string]any) (any, error) {
	items, err := ev.items(args[0])
	if err != nil || len(items) == 0 {
		return undefined{"first"}, err
	}
	return items[0], nil
}

func last(ev *evaluator, args []any, _ map[string]any) (any, error) {
	items, err := ev.items(args[0])
	if err != nil || len(items) == 0 {
		return undefined{"last"}, err
	}
	return items[len(items)-1], nil
}

func reverse(ev *evaluator, args []any, _ map[string]any) (any, error) {
	items, err := ev.items(args[0])
	if err != nil {
		return nil, err
	}
	if err := ev.charge(entryBytes * len(items)); err != nil {
		return nil, err
	}
	items = slices.Clone(items)
	slices.Reverse(items)
	if _, ok := args[0].(string); ok {
		return ev.joinItems(items, "")
	}
	return items, nil
}

func dictItems(ev *evaluator, args []any, _ map[string]any) (any, error) {
	switch v := args[0].(type) {
	case *dict:
		return v.pairs(ev)
	case undefined:
		return list{}, nil
	}
	return nil, fmt.Errorf("want a dict, got a %s: %w", typeName(args[0]), ErrRender)
}

func toInt(_ *evaluator, args []any, kw map[string]any) (any, error) {
	switch v := args[0].(type) {
	case float64:
		if n := int64(v); v > -1<<62 && v < 1<<62 {
			return n, nil
		}
	case string:
		if n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64); err == nil {
			return n, nil
		}
	default:
		if n, ok := integer(v); ok {
			return n, nil
		}
	}
	return argument(args, 1, kw, "default", int64(0)), nil
}

func mapAttr(ev *evaluator, args []any, kw map[string]any) (any, error) {
	attr, ok := kw["attribute"].(string)
	if !ok {
		return nil, fmt.Errorf("want attribute=: %w", ErrRender)
	}
	items, err := ev.items(args[0])
	if err != nil {
		return nil, err
	}
	if err := ev.charge(entryBytes * len(items)); err != nil {
		return nil, err
	}
	out := make(list, len(items))
	for i, v := range items {
		if err := ev.step(0); err != nil {
			return nil, err
		}
		if out[i], err = ev.index(v, attr); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// selectAttr keeps the items whose attribute passes a test ("is true" when none
// is named), or fails it.
func (ev *evaluator) selectAttr(args []any, want bool) (any, error) {
	items, err := ev.items(args[0])
	if err != nil {
		return nil, err
	}
	if len(args) < 2 {
		return nil, fmt.Errorf("want an attribute: %w", ErrRender)
	}
	name := ""
	if len(args) > 2 {
		name, _ = args[2].(string)
		if t, ok := tests[name]; !ok || t.args != len(args)-3 {
			return nil, fmt.Errorf("test %.40q with %d arguments: %w", name, len(args)-3, ErrRender)
		}
	}
	out := list{}
	for _, item := range items {
		v, err := ev.index(item, args[1])
		if err == nil {
			err = ev.step(0)
		}
		if err == nil {
			err = ev.charge(entryBytes)
		}
		if err != nil {
			return nil, err
		}
		ok := any(truth(v))
		if name != "" {
			if ok, err = tests[name].f(ev, v, args[3:]); err != nil {
				return nil, err
			}
		}
		if truth(ok) == want {
			out = append(out, item)
		}
	}
	return out, nil
}

// A test is what "is" asks, with its number of arguments.
type test struct {
	args int
	f    func(ev *evaluator, v any, args []any) (any, error)
}

func kindTest(f func(v any) bool) test {
	return test{0, func(_ *evaluator, v any, _ []any) (any, error) { return f(v), nil }}
}

func compareTest(op string) test {
	return test{1, func(ev *evaluator, v any, args []any) (any, error) { return ev.compare(op, v, args[0]) }}
}

func is[T any](v any) bool { _, ok := v.(T); return ok }

var tests = map[string]test{
	"defined":   kindTest(func(v any) bool { return !is[undefined](v) }),
	"undefined": kindTest(is[undefined]),
	"none":      kindTest(func(v any) bool { return v == nil }),
	"string":    kindTest(is[string]),
	"mapping":   kindTest(is[*dict]),
	"boolean":   kindTest(is[bool]),
	"integer":   kindTest(is[int64]),
	"float":     kindTest(is[float64]),
	"callable":  kindTest(is[function]),
	"number":    kindTest(func(v any) bool { _, ok := number(v); return ok }),
	"true":      kindTest(func(v any) bool { return v == true }),
	"false":     kindTest(func(v any) bool { return v == false }),
	"iterable":  kindTest(func(v any) bool { return is[string](v) || is[list](v) || is[*dict](v) || is[undefined](v) }),
	"sequence":  kindTest(func(v any) bool { return is[string](v) || is[list](v) || is[*dict](v) || is[undefined](v) }),
	"odd":       kindTest(func(v any) bool { n, ok := integer(v); return ok && n%2 != 0 }),
	"even":      kindTest(func(v any) bool { n, ok := integer(v); return ok && n%2 == 0 }),
	"eq":        compareTest("=="), "equalto": compareTest("=="), "ne": compareTest("!="), "in": compareTest("in"),
	"lt": compareTest("<"), "le": compareTest("<="), "gt": compareTest(">"), "ge": compareTest(">="),
	"divisibleby": {1, func(_ *evaluator, v any, args []any) (any, error) {
		m, err := integersOf("%", v, args[0])
		return m == any(int64(0)), err
	}},
}

func integersOf(op string, l, r any) (any, error) {
	a, ok1 := integer(l)
	b, ok2 := integer(r)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("%s %s %s: %w", typeName(l), op, typeName(r), ErrRender)
	}
	return integers(op, a, b)
}
