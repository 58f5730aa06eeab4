package openai

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/sparserun/sparserun/serve/wire"
	"github.com/sparserun/sparserun/strictjson"
)

// document is a request's body, known to be well formed.
type document struct {
	*strictjson.Reader
	text string
}

const (
	maxDepth = 64   // levels of nesting
	maxKeys  = 4096 // of one object
)

// read takes a request's body in.
func (h *handler) read(w http.ResponseWriter, r *http.Request) (document, error) {
	body, err := wire.Body(w, r, h.o.MaxBody, "application/json")
	if err != nil {
		return document{}, err
	}
	return parse(string(body))
}

func parse(text string) (document, error) {
	r, err := strictjson.New(text, strictjson.Options{Depth: maxDepth, Keys: func(int) int { return maxKeys }})
	if err == nil {
		err = r.Skip(true)
	}
	if err == nil {
		err = r.End()
	}
	if err != nil {
		return document{}, &problem{Status: http.StatusBadRequest, Type: typeRequest, Code: "invalid_json", Message: err.Error()}
	}
	return document{r.At(0), text}, nil
}

// fields are the members that an object may have, and how each is read into a T.
type fields[T any] map[string]func(*T, document) error

// object reads an object at path into v. Null members count as absent.
func object[T any](d document, path string, v *T, table fields[T], lenient bool) error {
	if d.Peek() != '{' {
		return bad(orBody(path), "want an object")
	}
	return d.Object(func(key string) error {
		param := key
		if path != "" {
			param = path + "." + key
		}
		f, ok := table[key]
		if !ok {
			if lenient {
				return d.Skip(false)
			}
			return &problem{Status: http.StatusBadRequest, Type: typeRequest, Param: clip(param), Code: "unknown_parameter", Message: "unknown field " + strconv.QuoteToASCII(clip(param))}
		}
		if null, err := d.Null(); null || err != nil {
			return err
		}
		return at(param, f(v, d))
	})
}

func orBody(path string) string {
	if path == "" {
		return "body"
	}
	return path
}

// wrong is an error that does not know yet which field it is about.
type wrong struct{ message string }

func (w *wrong) Error() string { return w.message }

func wrongf(format string, args ...any) error { return &wrong{fmt.Sprintf(format, args...)} }

// errUnsupported marks a field that this server does not do.
var errUnsupported = errors.New("not supported")

// at names the field of an error.
func at(param string, err error) error {
	var w *wrong
	var j *strictjson.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errUnsupported):
		return unsupported(param)
	case errors.As(err, &w):
		return bad(param, "%s", w.message)
	case errors.As(err, &j): // the document is well formed: a value of another type
		return bad(param, "want %s", j.Want)
	}
	return err
}

// number reads one in [lo, hi].
func number(d document, lo, hi float64) (float64, error) {
	if c := d.Peek(); c != '-' && (c < '0' || c > '9') {
		return 0, wrongf("want a number from %g to %g", lo, hi)
	}
	text, err := d.Number()
	if err != nil {
		return 0, err
	}
	x, err := strconv.ParseFloat(text, 64)
	if err != nil || !(x >= lo && x <= hi) {
		return 0, wrongf("want a number from %g to %g, got %s", lo, hi, clip(text))
	}
	return x, nil
}

// integer reads one in [lo, hi]; 1.0 is one too, as other languages write it.
func integer(d document, lo, hi int64) (int64, error) {
	if c := d.Peek(); c != '-' && (c < '0' || c > '9') {
		return 0, wrongf("want an integer from %d to %d", lo, hi)
	}
	text, err := d.Number()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		x, err := strconv.ParseFloat(text, 64)
		if err != nil || x != math.Trunc(x) || math.Abs(x) > 1<<53 {
			return 0, wrongf("want an integer from %d to %d, got %s", lo, hi, clip(text))
		}
		n = int64(x)
	}
	if n < lo || n > hi {
		return 0, wrongf("want an integer from %d to %d, got %d", lo, hi, n)
	}
	return n, nil
}

func boolean(d document) (bool, error) {
	if c := d.Peek(); c != 't' && c != 'f' {
		return false, wrongf("want true or false")
	}
	return d.Bool()
}

// text reads a string. It is a copy: a stop string must not keep a body of megabytes
// alive for as long as its answer takes.
func text(d document) (string, error) {
	if d.Peek() != '"' {
		return "", wrongf("want a string")
	}
	s, err := d.Str()
	return strings.Clone(s), err
}

// oneOf reads a string out of a few.
func oneOf(d document, allowed ...string) (string, error) {
	s, err := text(d)
	if err != nil {
		return "", err
	}
	for _, a := range allowed {
		if s == a {
			return s, nil
		}
	}
	return "", wrongf("want one of %s, got %q", strings.Join(allowed, ", "), clip(s))
}

// array calls f for each of at most limit elements.
func array(d document, limit int, f func(i int) error) error {
	if d.Peek() != '[' {
		return wrongf("want an array")
	}
	return d.Array(func(i int) error {
		if i == limit {
			return wrongf("want at most %d elements", limit)
		}
		return f(i)
	})
}

// no is a field of OpenAI's that this server does not do.
func no[T any](*T, document) error { return errUnsupported }
