package chat

// Values are nil (None), bool, int64, float64, string, list, *dict, *space,
// function and undefined. Lists and dicts never change once made, so they hold
// no cycles; a space can, and only its own attributes are ever looked at.
type (
	list []any

	// dict keeps its keys in the order of entry.
	dict struct {
		keys   []string
		values map[string]any
	}

	// space is what namespace() makes: set may assign to its attributes.
	space struct{ values map[string]any }

	function func(ev *evaluator, args []any, kw map[string]any) (any, error)

	// undefined is the value of a name or key that is not there.
	undefined struct{ name string }
)

// maxValueDepth bounds the nesting of lists and dicts where they are written
// out or compared.
const maxValueDepth = 100

func (d *dict) set(key string, v any) {
	if d.values == nil {
		d.values = map[string]any{}
	}
	if _, ok := d.values[key]; !ok {
		d.keys = append(d.keys, key)
	}
	d.values[key] = v
}

func truth(v any) bool {
	switch v := v.(type) {
	case nil, undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case list:
		return len(v) > 0
	case *dict:
		return len(v.keys) > 0
	}
	return true
}

// typeName is Python's name of a value's type, for errors.
func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "None"
	case undefined:
		return "undefined"
	case bool:
		return "bool"
	case int64:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case list:
		return "list"
	case *dict:
		return "dict"
	case *space:
		return "namespace"
	}
	return "function"
}

// number returns v as a float; bools count as 0 and 1, as in Python.
func number(v any) (float64, bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case int64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

func integer(v any) (int64, bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case int64:
		return v, true
	}
	return 0, false
}

// equal is Python's ==.
func (ev *evaluator) equal(a, b any, depth int) (bool, error) {
	if err := ev.step(depth); err != nil {
		return false, err
	}
	if i, ok := integer(a); ok {
		if j, ok := integer(b); ok {
			return i == j, nil
		}
	}
	if x, ok := number(a); ok {
		y, ok := number(b)
		return ok && x == y, nil
	}
	switch a := a.(type) {
	case nil:
		return b == nil, nil
	case undefined:
		_, ok := b.(undefined)
		return ok, nil
	case string:
		s, ok := b.(string)
		return ok && a == s, nil
	case list:
		c, ok := b.(list)
		if !ok || len(a) != len(c) {
			return false, nil
		}
		for i := range a {
			if same, err := ev.equal(a[i], c[i], depth+1); !same || err != nil {
				return false, err
			}
		}
		return true, nil
	case *dict:
		c, ok := b.(*dict)
		if !ok || len(a.keys) != len(c.keys) {
			return false, nil
		}
		for key, v := range a.values {
			w, ok := c.values[key]
			if !ok {
				return false, nil
			}
			if same, err := ev.equal(v, w, depth+1); !same || err != nil {
				return false, err
			}
		}
		return true, nil
	case *space:
		c, ok := b.(*space)
		return ok && a == c, nil
	}
	return false, nil
}
