package chat

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A method of strings. What it returns has been charged for, or is no longer
// than s and shares its bytes.
type method func(ev *evaluator, s string, args []any) (any, error)

var stringMethods = map[string]method{
	"strip":        strip,
	"lstrip":       trimmer(strings.TrimLeftFunc),
	"rstrip":       trimmer(strings.TrimRightFunc),
	"upper":        upper,
	"lower":        lower,
	"capitalize":   capitalize,
	"title":        title,
	"replace":      replaceText,
	"split":        splitText,
	"splitlines":   splitLines,
	"startswith":   affixTest(strings.HasPrefix),
	"endswith":     affixTest(strings.HasSuffix),
	"removeprefix": affixCut(strings.TrimPrefix),
	"removesuffix": affixCut(strings.TrimSuffix),
	"find": func(ev *evaluator, s string, args []any) (any, error) {
		t, err := texts(args, 1, 1)
		if err != nil {
			return nil, err
		}
		n := strings.Index(s, t[0])
		if n > 0 {
			n = utf8.RuneCountInString(s[:n])
		}
		return int64(n), ev.charge(len(s) / 16)
	},
	"join": func(ev *evaluator, s string, args []any) (any, error) {
		if len(args) != 1 {
			return nil, fmt.Errorf("join: want a list: %w", ErrRender)
		}
		items, err := ev.items(args[0])
		if err != nil {
			return nil, err
		}
		return ev.joinItems(items, s)
	},
}

var dictMethods = map[string]func(ev *evaluator, d *dict, args []any) (any, error){
	"items": func(ev *evaluator, d *dict, _ []any) (any, error) { return d.pairs(ev) },
	"keys":  func(ev *evaluator, d *dict, _ []any) (any, error) { return ev.items(d) },
	"values": func(ev *evaluator, d *dict, _ []any) (any, error) {
		l := make(list, len(d.keys))
		for i, key := range d.keys {
			l[i] = d.values[key]
		}
		return l, ev.charge(entryBytes * len(l))
	},
	"get": func(_ *evaluator, d *dict, args []any) (any, error) {
		if len(args) == 0 {
			return nil, fmt.Errorf("get: want a key: %w", ErrRender)
		}
		s, ok := args[0].(string)
		if v, has := d.values[s]; ok && has {
			return v, nil
		}
		return argument(args, 1, nil, "", nil), nil
	},
}

// bind makes a function of a method and its receiver.
func bind[T any](of T, m func(*evaluator, T, []any) (any, error)) function {
	return func(ev *evaluator, args []any, _ map[string]any) (any, error) { return m(ev, of, args) }
}

func (d *dict) pairs(ev *evaluator) (any, error) {
	if err := ev.charge(3 * entryBytes * len(d.keys)); err != nil {
		return nil, err
	}
	l := make(list, len(d.keys))
	for i, key := range d.keys {
		l[i] = list{key, d.values[key]}
	}
	return l, nil
}

// texts checks that args are least to most strings.
func texts(args []any, least, most int) ([]string, error) {
	if len(args) < least || len(args) > most {
		return nil, fmt.Errorf("want %d to %d arguments, got %d: %w", least, most, len(args), ErrRender)
	}
	out := make([]string, len(args))
	for i, a := range args {
		s, ok := a.(string)
		if !ok {
			return nil, fmt.Errorf("want a str, got a %s: %w", typeName(a), ErrRender)
		}
		out[i] = s
	}
	return out, nil
}

// isSpace is Python's str.isspace.
func isSpace(r rune) bool { return unicode.IsSpace(r) || 0x1C <= r && r <= 0x1F }

var strip = trimmer(strings.TrimFunc)

func trimmer(trim func(string, func(rune) bool) string) method {
	return func(ev *evaluator, s string, args []any) (any, error) {
		if len(args) == 1 && args[0] == nil {
			args = nil
		}
		t, err := texts(args, 0, 1)
		if err != nil {
			return nil, err
		}
		if err := ev.charge(len(s) / 16); err != nil {
			return nil, err
		}
		if len(t) == 0 {
			return trim(s, isSpace), nil
		}
		return trim(s, func(r rune) bool { return strings.ContainsRune(t[0], r) }), nil
	}
}

func mapper(f func(string) string) method {
	return func(ev *evaluator, s string, args []any) (any, error) {
		if err := ev.charge(2 * len(s)); err != nil {
			return nil, err
		}
		return f(s), nil
	}
}

var (
	upper      = mapper(strings.ToUpper)
	lower      = mapper(strings.ToLower)
	capitalize = mapper(func(s string) string {
		_, n := utf8.DecodeRuneInString(s)
		return strings.ToUpper(s[:n]) + strings.ToLower(s[n:])
	})
	title = mapper(func(s string) string {
		inWord := false
		return strings.Map(func(r rune) rune {
			was := inWord
			inWord = unicode.IsLetter(r)
			if was {
				return unicode.ToLower(r)
			}
			return unicode.ToTitle(r)
		}, s)
	})
)

func replaceText(ev *evaluator, s string, args []any) (any, error) {
	count := int64(-1)
	if len(args) == 3 {
		n, ok := integer(args[2])
		if !ok && args[2] != nil {
			return nil, fmt.Errorf("want a count, got a %s: %w", typeName(args[2]), ErrRender)
		} else if ok {
			count = n
		}
		args = args[:2]
	}
	t, err := texts(args, 2, 2)
	if err != nil {
		return nil, err
	}
	// The longest the result can be, charged before it is made.
	n := int64(strings.Count(s, t[0]))
	if count >= 0 {
		n = min(n, count)
	}
	if err := ev.times(len(t[1]), n); err != nil {
		return nil, err
	}
	if err := ev.charge(len(s)); err != nil {
		return nil, err
	}
	return strings.Replace(s, t[0], t[1], int(n)), nil
}

func splitText(ev *evaluator, s string, args []any) (any, error) {
	most := int64(-1)
	if len(args) == 2 {
		n, ok := integer(args[1])
		if !ok {
			return nil, fmt.Errorf("want a count, got a %s: %w", typeName(args[1]), ErrRender)
		}
		most, args = n, args[:1]
	}
	if len(args) == 1 && args[0] == nil {
		args = nil
	}
	t, err := texts(args, 0, 1)
	if err != nil {
		return nil, err
	}
	if len(t) == 1 && t[0] == "" {
		return nil, fmt.Errorf("split: want a separator: %w", ErrRender)
	}
	var parts []string
	if len(t) == 0 {
		if most >= 0 {
			return nil, fmt.Errorf("split: want a separator with a count: %w", ErrRender)
		}
		if err := ev.charge(entryBytes * (len(s)/2 + 1)); err != nil {
			return nil, err
		}
		parts = strings.FieldsFunc(s, isSpace)
	} else {
		if err := ev.charge(entryBytes * (strings.Count(s, t[0]) + 1)); err != nil {
			return nil, err
		}
		if most < 0 || most > int64(len(s)) {
			most = int64(len(s))
		}
		parts = strings.SplitN(s, t[0], int(most)+1)
	}
	return listOf(parts), nil
}

func splitLines(ev *evaluator, s string, _ []any) (any, error) {
	if err := ev.charge(entryBytes * (strings.Count(s, "\n") + 1)); err != nil {
		return nil, err
	}
	s = strings.TrimSuffix(strings.ReplaceAll(s, "\r\n", "\n"), "\n")
	if s == "" {
		return list{}, nil
	}
	return listOf(strings.Split(s, "\n")), nil
}

func listOf(parts []string) list {
	l := make(list, len(parts))
	for i, p := range parts {
		l[i] = p
	}
	return l
}

// affixTest tests for one affix or any of a list.
func affixTest(has func(s, affix string) bool) method {
	return func(ev *evaluator, s string, args []any) (any, error) {
		if len(args) == 1 {
			if l, ok := args[0].(list); ok {
				args = l
			}
		}
		t, err := texts(args, 0, len(args))
		if err != nil {
			return nil, err
		}
		for _, affix := range t {
			if has(s, affix) {
				return true, nil
			}
		}
		return false, nil
	}
}

func affixCut(cut func(s, affix string) string) method {
	return func(_ *evaluator, s string, args []any) (any, error) {
		t, err := texts(args, 1, 1)
		if err != nil {
			return nil, err
		}
		return cut(s, t[0]), nil
	}
}
