package chat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// convert makes a value of a caller's Go value.
func convert(v any, depth int) (any, error) {
	if depth > maxValueDepth {
		return nil, fmt.Errorf("nesting deeper than %d: %w", maxValueDepth, ErrLimit)
	}
	switch v := v.(type) {
	case nil, bool, int64, float64, string:
		return v, nil
	case int:
		return int64(v), nil
	case []string:
		l := make(list, len(v))
		for i, s := range v {
			l[i] = s
		}
		return l, nil
	case []any:
		l := make(list, len(v))
		for i, e := range v {
			w, err := convert(e, depth+1)
			if err != nil {
				return nil, err
			}
			l[i] = w
		}
		return l, nil
	case map[string]any:
		d := &dict{}
		for _, key := range sortedKeys(v) {
			w, err := convert(v[key], depth+1)
			if err != nil {
				return nil, err
			}
			d.set(key, w)
		}
		return d, nil
	case json.RawMessage:
		dec := json.NewDecoder(bytes.NewReader(v))
		dec.UseNumber()
		w, err := fromJSON(dec, depth)
		if err == nil && dec.InputOffset() < int64(len(v)) && len(bytes.TrimSpace(v[dec.InputOffset():])) > 0 {
			err = fmt.Errorf("data after the JSON value: %w", ErrRender)
		}
		return w, err
	}
	return nil, fmt.Errorf("a value of type %T: %w", v, ErrRender)
}

// fromJSON reads one value with its keys in the order of the file.
func fromJSON(dec *json.Decoder, depth int) (any, error) {
	if depth > maxValueDepth {
		return nil, fmt.Errorf("JSON nested deeper than %d: %w", maxValueDepth, ErrLimit)
	}
	t, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("JSON: %v: %w", err, ErrRender)
	}
	switch t := t.(type) {
	case json.Number:
		if n, err := t.Int64(); err == nil {
			return n, nil
		}
		f, err := t.Float64()
		if err != nil {
			return nil, fmt.Errorf("JSON: number %.40q: %w", t, ErrRender)
		}
		return f, nil
	case json.Delim:
		if t == '[' {
			l := list{}
			for dec.More() {
				v, err := fromJSON(dec, depth+1)
				if err != nil {
					return nil, err
				}
				l = append(l, v)
			}
			return l, end(dec)
		}
		d := &dict{}
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return nil, fmt.Errorf("JSON: %v: %w", err, ErrRender)
			}
			v, err := fromJSON(dec, depth+1)
			if err != nil {
				return nil, err
			}
			d.set(key.(string), v)
		}
		return d, end(dec)
	}
	return t, nil
}

func end(dec *json.Decoder) error {
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("JSON: %v: %w", err, ErrRender)
	}
	return nil
}
