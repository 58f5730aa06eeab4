package oip

import (
	"math"
	"strconv"
	"strings"

	"github.com/sparserun/sparserun/serve/oip/inference"
	"github.com/sparserun/sparserun/strictjson"
)

// parameters are those of a request or a tensor: string, bool, int64, uint64, float64,
// or []string where a list of strings makes sense.
type parameters map[string]any

const maxParameters = 64

// readParameters reads the object of that name.
func readParameters(r *strictjson.Reader, into parameters) error {
	if r.Peek() != '{' {
		return bad("parameters: want an object")
	}
	return r.Object(func(key string) error { return into.read(r, key) })
}

func (p parameters) read(r *strictjson.Reader, key string) error {
	if _, twice := p[key]; twice {
		return bad("parameter %q occurs twice", clip(key))
	}
	if len(p) == maxParameters {
		return bad("want at most %d parameters", maxParameters)
	}
	switch c := r.Peek(); {
	case c == 'n':
		_, err := r.Null()
		return err
	case c == '"':
		s, err := r.Str()
		p[strings.Clone(key)] = strings.Clone(s)
		return err
	case c == 't' || c == 'f':
		b, err := r.Bool()
		p[strings.Clone(key)] = b
		return err
	case c == '-' || c >= '0' && c <= '9':
		text, err := r.Number()
		if err != nil {
			return err
		}
		p[strings.Clone(key)], err = numeric(text)
		return err
	case c == '[':
		list := []string{}
		err := r.Array(func(i int) error {
			if i == maxParameters || r.Peek() != '"' {
				return bad("parameter %q: want at most %d strings", clip(key), maxParameters)
			}
			s, err := r.Str()
			list = append(list, strings.Clone(s))
			return err
		})
		p[strings.Clone(key)] = list
		return err
	}
	return bad("parameter %q: want a string, a number, a boolean or a list of strings", clip(key))
}

func numeric(text string) (any, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, nil
	}
	x, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, bad("number out of range: %s", clip(text))
	}
	return x, nil
}

// grpcParameters are a gRPC request's.
func grpcParameters(from map[string]*inference.InferParameter) (parameters, error) {
	if len(from) > maxParameters {
		return nil, bad("want at most %d parameters, got %d", maxParameters, len(from))
	}
	p := parameters{}
	for key, v := range from {
		switch x := v.GetParameterChoice().(type) {
		case *inference.InferParameter_BoolParam:
			p[key] = x.BoolParam
		case *inference.InferParameter_Int64Param:
			p[key] = x.Int64Param
		case *inference.InferParameter_Uint64Param:
			p[key] = x.Uint64Param
		case *inference.InferParameter_DoubleParam:
			p[key] = x.DoubleParam
		case *inference.InferParameter_StringParam:
			p[key] = x.StringParam
		default:
			return nil, bad("parameter %q has no value", clip(key))
		}
	}
	return p, nil
}

// number is a parameter in [lo, hi]. Strings count too: Triton's vLLM clients write
// sampling parameters so.
func (p parameters) number(key string, lo, hi float64) (float64, error) {
	var x float64
	switch v := p[key].(type) {
	case int64:
		x = float64(v)
	case uint64:
		x = float64(v)
	case float64:
		x = v
	case string:
		var err error
		if x, err = strconv.ParseFloat(v, 64); err != nil {
			return 0, bad("%s: want a number from %g to %g, got %q", key, lo, hi, clip(v))
		}
	default:
		return 0, bad("%s: want a number from %g to %g", key, lo, hi)
	}
	if !(x >= lo && x <= hi) {
		return 0, bad("%s: want a number from %g to %g, got %g", key, lo, hi, x)
	}
	return x, nil
}

// integer is a parameter in [lo, hi].
func (p parameters) integer(key string, lo, hi int64) (int64, error) {
	var n int64
	ok := true
	switch v := p[key].(type) {
	case int64:
		n = v
	case uint64:
		n, ok = int64(v), v <= math.MaxInt64
	case float64:
		n, ok = int64(v), v == math.Trunc(v) && math.Abs(v) <= 1<<53
	case string:
		var err error
		n, err = strconv.ParseInt(v, 10, 64)
		ok = err == nil
	default:
		ok = false
	}
	if !ok || n < lo || n > hi {
		return 0, bad("%s: want an integer from %d to %d", key, lo, hi)
	}
	return n, nil
}

func (p parameters) boolean(key string) (bool, error) {
	switch v := p[key].(type) {
	case bool:
		return v, nil
	case string:
		if b, err := strconv.ParseBool(v); err == nil {
			return b, nil
		}
	}
	return false, bad("%s: want true or false", key)
}

// strings is a parameter of one string or several; an empty one counts as none.
func (p parameters) strings(key string) ([]string, error) {
	switch v := p[key].(type) {
	case string:
		if v == "" {
			return nil, nil
		}
		return []string{v}, nil
	case []string:
		return v, nil
	}
	return nil, bad("%s: want a string or a list of strings", key)
}
