package loader

import "strconv"

type (
	// object is a JSON object with lookups that name the key they fail at.
	object map[string]any
	// number is the text of a JSON number.
	number string
)

// parseObject reads one JSON object and nothing else.
func parseObject(b []byte) (object, error) {
	r, err := newJSON(b, 0)
	if err != nil {
		return nil, err
	}
	if r.Peek() != '{' {
		return nil, r.Fail("'{'")
	}
	v, err := r.value()
	if err == nil {
		err = r.End()
	}
	if err != nil {
		return nil, err
	}
	return v.(object), nil
}

func (o object) bad(key, want string) error {
	return fault(ErrConfig, key, -1, "value", want, o[key])
}

// int reads a whole number; def where the key is absent or null.
func (o object) int(key string, def int) (int, error) {
	switch v := o[key].(type) {
	case nil:
		return def, nil
	case number:
		if n, err := strconv.Atoi(string(v)); err == nil {
			return n, nil
		}
	}
	return 0, o.bad(key, "a whole number")
}

func (o object) float(key string, def float64) (float64, error) {
	switch v := o[key].(type) {
	case nil:
		return def, nil
	case number:
		if f, err := strconv.ParseFloat(string(v), 64); err == nil {
			return f, nil
		}
	}
	return 0, o.bad(key, "a number")
}

func (o object) bool(key string, def bool) (bool, error) {
	switch v := o[key].(type) {
	case nil:
		return def, nil
	case bool:
		return v, nil
	}
	return false, o.bad(key, "true or false")
}

func (o object) str(key, def string) (string, error) {
	switch v := o[key].(type) {
	case nil:
		return def, nil
	case string:
		return v, nil
	}
	return "", o.bad(key, "a string")
}

func (o object) obj(key string) (object, error) {
	switch v := o[key].(type) {
	case nil:
		return nil, nil
	case object:
		return v, nil
	}
	return nil, o.bad(key, "an object")
}

// ints reads a list of whole numbers; nil where absent.
func (o object) ints(key string) ([]int, error) {
	if o[key] == nil {
		return nil, nil
	}
	list, ok := o[key].([]any)
	if !ok {
		return nil, o.bad(key, "a list of whole numbers")
	}
	out := make([]int, len(list))
	for i, v := range list {
		s, _ := v.(number)
		n, err := strconv.Atoi(string(s))
		if err != nil {
			return nil, o.bad(key, "a list of whole numbers")
		}
		out[i] = n
	}
	return out, nil
}

// strs reads a list of strings; nil where absent.
func (o object) strs(key string) ([]string, error) {
	if o[key] == nil {
		return nil, nil
	}
	list, ok := o[key].([]any)
	if !ok {
		return nil, o.bad(key, "a list of strings")
	}
	out := make([]string, len(list))
	for i, v := range list {
		if out[i], ok = v.(string); !ok {
			return nil, o.bad(key, "a list of strings")
		}
	}
	return out, nil
}
