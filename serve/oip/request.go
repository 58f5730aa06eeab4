package oip

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/serve/wire"
	"github.com/sparserun/sparserun/strictjson"
)

const (
	maxDepth   = 32
	maxKeys    = 4096 // of one object
	maxTensors = 256  // inputs, and outputs asked for, of one request
)

// headerLength says where the JSON of a body ends and binary tensors begin.
const headerLength = "Inference-Header-Content-Length"

// named is a tensor of a request or an answer.
type named struct {
	name string
	*model.Tensor
}

// wanted is an output that a request asks for.
type wanted struct {
	name   string
	binary *bool // nil: as the request says
}

// inferRequest is an inference, whatever it came by.
type inferRequest struct {
	id      string
	params  parameters
	inputs  []named
	outputs []wanted // empty: all
	binary  bool     // outputs that do not say otherwise are binary
}

// reader checks a whole JSON document and stands at its beginning.
func reader(text string) (*strictjson.Reader, error) {
	r, err := strictjson.New(text, strictjson.Options{Depth: maxDepth, Keys: func(int) int { return maxKeys }})
	if err != nil {
		return nil, err
	}
	if err := r.Skip(true); err != nil {
		return nil, err
	}
	if err := r.End(); err != nil {
		return nil, err
	}
	return r.At(0), nil
}

// body reads a request's body. Clients of the protocol send no type with JSON and
// application/octet-stream, or none, with binary tensors.
func (s *server) body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	return wire.Body(w, r, s.o.MaxBody, "application/json", "application/octet-stream", "")
}

// split cuts a body into its JSON and its binary tensors.
func split(body []byte, header string) (text string, tensors []byte, err error) {
	if header == "" {
		return string(body), nil, nil
	}
	n, err := strconv.ParseUint(header, 10, 63)
	if err != nil || n > uint64(len(body)) || n == 0 {
		return "", nil, bad("%s: want 1 to %d (the body), got %q", headerLength, len(body), clip(header))
	}
	return string(body[:n]), body[n:], nil
}

// objectReader is reader for a body that must be an object.
func objectReader(text string) (*strictjson.Reader, error) {
	r, err := reader(text)
	if err == nil && r.Peek() != '{' {
		err = bad("want an object")
	}
	return r, err
}

// parseInfer reads the body of an infer request: JSON, then the binary tensors.
func parseInfer(text string, tensors []byte) (*inferRequest, error) {
	r, err := objectReader(text)
	if err != nil {
		return nil, err
	}
	q := &inferRequest{params: parameters{}}
	rest := tensors
	hasInputs := false
	err = r.Object(func(key string) error {
		switch key {
		case "id":
			id, err := str(r, "id")
			q.id = id
			return err
		case "parameters":
			return readParameters(r, q.params)
		case "inputs":
			hasInputs = true
			return list(r, "inputs", func() error {
				in, left, err := readInput(r, rest)
				rest = left
				for _, other := range q.inputs {
					if err == nil && other.name == in.name {
						err = bad("input %q occurs twice", clip(in.name))
					}
				}
				q.inputs = append(q.inputs, in)
				return err
			})
		case "outputs":
			return list(r, "outputs", func() error { return q.readOutput(r) })
		}
		return bad("unknown field %q", clip(key))
	})
	switch {
	case err != nil:
		return nil, err
	case !hasInputs:
		return nil, bad("inputs: is required")
	case len(rest) > 0:
		return nil, bad("%d bytes after the last binary tensor", len(rest))
	}
	if _, ok := q.params["binary_data_output"]; ok {
		if q.binary, err = q.params.boolean("binary_data_output"); err != nil {
			return nil, err
		}
		delete(q.params, "binary_data_output")
	}
	return q, nil
}

func str(r *strictjson.Reader, what string) (string, error) {
	if r.Peek() != '"' {
		return "", bad("%s: want a string", what)
	}
	s, err := r.Str()
	return strings.Clone(s), err
}

func list(r *strictjson.Reader, what string, f func() error) error {
	if r.Peek() != '[' {
		return bad("%s: want an array", what)
	}
	return r.Array(func(i int) error {
		if i == maxTensors {
			return bad("%s: want at most %d", what, maxTensors)
		}
		return f()
	})
}

// readInput reads a tensor; binary holds the binary tensors from this one on.
func readInput(r *strictjson.Reader, binary []byte) (in named, left []byte, err error) {
	datatype, data := "", -1
	var dims []int64
	hasShape := false
	params := parameters{}
	if r.Peek() != '{' {
		return in, binary, bad("inputs: want objects")
	}
	err = r.Object(func(key string) (err error) {
		switch key {
		case "name":
			in.name, err = str(r, "inputs: name")
		case "datatype":
			datatype, err = str(r, "inputs: datatype")
		case "shape":
			hasShape = true
			dims, err = readShape(r)
		case "parameters":
			err = readParameters(r, params)
		case "data": // read when its type and shape are known
			r.Peek()
			data = r.Pos()
			err = r.Skip(false)
		default:
			err = bad("inputs: unknown field %q", clip(key))
		}
		return err
	})
	if err != nil {
		return in, binary, err
	}
	at := func(err error) error {
		if err == nil {
			return nil
		}
		return bad("input %q: %s", clip(in.name), explain(err).message)
	}
	switch {
	case in.name == "":
		return in, binary, bad("inputs: name is required")
	case !hasShape:
		return in, binary, at(bad("shape is required"))
	}
	_, isBinary := params["binary_data_size"]
	switch {
	case isBinary && data >= 0:
		return in, binary, at(bad("has data and binary_data_size"))
	case isBinary:
		size, err := params.integer("binary_data_size", 0, 1<<40)
		if err != nil {
			return in, binary, at(err)
		}
		if size > int64(len(binary)) {
			return in, binary, at(bad("binary_data_size is %d, the body has %d bytes left", size, len(binary)))
		}
		in.Tensor, err = decodeRaw(datatype, dims, binary[:size])
		return in, binary[size:], at(err)
	case data < 0:
		return in, binary, at(bad("data is required"))
	case len(params) > 0: // shared memory
		return in, binary, at(bad("parameters other than binary_data_size are not supported"))
	}
	in.Tensor, err = decodeJSON(datatype, dims, r.At(data))
	return in, binary, at(err)
}

func readShape(r *strictjson.Reader) ([]int64, error) {
	if r.Peek() != '[' {
		return nil, bad("inputs: shape: want an array of integers")
	}
	dims := []int64{}
	err := r.Array(func(i int) error {
		if i == maxRank {
			return bad("inputs: want at most %d dimensions", maxRank)
		}
		text, err := number(r)
		if err != nil {
			return bad("inputs: shape: want integers")
		}
		d, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return bad("inputs: shape: want integers, got %s", clip(text))
		}
		dims = append(dims, d)
		return nil
	})
	return dims, err
}

// readOutput reads an output that is asked for.
func (q *inferRequest) readOutput(r *strictjson.Reader) error {
	if r.Peek() != '{' {
		return bad("outputs: want objects")
	}
	var out wanted
	params := parameters{}
	err := r.Object(func(key string) (err error) {
		switch key {
		case "name":
			out.name, err = str(r, "outputs: name")
		case "parameters":
			err = readParameters(r, params)
		default:
			err = bad("outputs: unknown field %q", clip(key))
		}
		return err
	})
	if err != nil {
		return err
	}
	return q.want(out, params)
}

// want adds an output with its parameters.
func (q *inferRequest) want(out wanted, params parameters) error {
	if out.name == "" {
		return bad("outputs: name is required")
	}
	for _, other := range q.outputs {
		if other.name == out.name {
			return bad("output %q occurs twice", clip(out.name))
		}
	}
	for key := range params {
		switch key {
		case "binary_data":
			b, err := params.boolean(key)
			if err != nil {
				return bad("output %q: %v", clip(out.name), err)
			}
			out.binary = &b
		default: // classification, shared memory
			return bad("output %q: parameter %q is not supported", clip(out.name), clip(key))
		}
	}
	q.outputs = append(q.outputs, out)
	return nil
}

// isBinary says how an output is to be sent.
func (q *inferRequest) isBinary(name string) bool {
	for _, w := range q.outputs {
		if w.name == name && w.binary != nil {
			return *w.binary
		}
	}
	return q.binary
}
