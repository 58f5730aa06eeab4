package oip

import (
	"context"
	"fmt"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/serve/oip/inference"
	"github.com/sparserun/sparserun/serve/registry"
)

// ModelInfer answers one inference.
func (g *grpcServer) ModelInfer(ctx context.Context, r *inference.ModelInferRequest) (*inference.ModelInferResponse, error) {
	m, release, err := g.acquire(ctx, r.GetModelName(), r.GetModelVersion())
	if err != nil {
		return nil, g.status(ctx, err)
	}
	defer release()
	q, err := parseGRPC(r)
	if err != nil {
		return nil, g.status(ctx, err)
	}
	out, err := g.infer(ctx, g.client(ctx), m, q)
	if err != nil {
		return nil, g.status(ctx, err)
	}
	return grpcAnswer(m, q, out), nil
}

// parseGRPC reads a request. Tensors are raw, all of them, or none is; the answer then
// comes likewise.
func parseGRPC(r *inference.ModelInferRequest) (*inferRequest, error) {
	raw := r.GetRawInputContents()
	switch n := len(r.GetInputs()); {
	case n > maxTensors || len(r.GetOutputs()) > maxTensors:
		return nil, bad("want at most %d inputs and outputs", maxTensors)
	case len(raw) > 0 && len(raw) != n:
		return nil, bad("raw_input_contents: want one for each of %d inputs, got %d", n, len(raw))
	}
	params, err := grpcParameters(r.GetParameters())
	if err != nil {
		return nil, err
	}
	q := &inferRequest{id: r.GetId(), params: params, binary: len(raw) > 0}
	for i, in := range r.GetInputs() {
		x := named{name: in.GetName()}
		for _, other := range q.inputs {
			if other.name == x.name {
				return nil, bad("input %q occurs twice", clip(x.name))
			}
		}
		switch {
		case len(in.GetParameters()) > 0: // shared memory
			err = bad("parameters are not supported")
		case len(raw) > 0 && in.GetContents() != nil:
			err = bad("has contents beside raw_input_contents")
		case len(raw) > 0:
			x.Tensor, err = decodeRaw(in.GetDatatype(), in.GetShape(), raw[i])
		default:
			x.Tensor, err = decodeContents(in.GetDatatype(), in.GetShape(), in.GetContents())
		}
		if err != nil {
			return nil, bad("input %q: %s", clip(x.name), explain(err).message)
		}
		q.inputs = append(q.inputs, x)
	}
	for _, out := range r.GetOutputs() {
		p, err := grpcParameters(out.GetParameters())
		if err != nil {
			return nil, err
		}
		if err := q.want(wanted{name: out.GetName()}, p); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// decodeContents makes a tensor of typed contents.
func decodeContents(datatype string, dims []int64, c *inference.InferTensorContents) (*model.Tensor, error) {
	t, n, _, err := tensorOf(datatype, dims)
	if err != nil {
		return nil, err
	}
	got := 0
	switch t.Elem {
	case model.ElemBool:
		got, t.Data = len(c.GetBoolContents()), c.GetBoolContents()
	case model.ElemI8:
		got = len(c.GetIntContents())
		t.Data, err = narrow[int8](c.GetIntContents())
	case model.ElemI16:
		got = len(c.GetIntContents())
		t.Data, err = narrow[int16](c.GetIntContents())
	case model.ElemI32:
		got, t.Data = len(c.GetIntContents()), c.GetIntContents()
	case model.ElemI64:
		got, t.Data = len(c.GetInt64Contents()), c.GetInt64Contents()
	case model.ElemU8:
		got = len(c.GetUintContents())
		t.Data, err = narrow[uint8](c.GetUintContents())
	case model.ElemU16:
		got = len(c.GetUintContents())
		t.Data, err = narrow[uint16](c.GetUintContents())
	case model.ElemU32:
		got, t.Data = len(c.GetUintContents()), c.GetUintContents()
	case model.ElemU64:
		got, t.Data = len(c.GetUint64Contents()), c.GetUint64Contents()
	case model.ElemF32:
		got, t.Data = len(c.GetFp32Contents()), c.GetFp32Contents()
	case model.ElemF64:
		got, t.Data = len(c.GetFp64Contents()), c.GetFp64Contents()
	case model.ElemString:
		x := make([]string, len(c.GetBytesContents()))
		for i, b := range c.GetBytesContents() {
			x[i] = string(b)
		}
		got, t.Data = len(x), x
	default:
		return nil, bad("%s has no contents: send raw_input_contents", datatype)
	}
	if err != nil {
		return nil, err
	}
	if got != n {
		return nil, bad("%s of shape %v has %d elements, contents have %d", datatype, dims, n, got)
	}
	if n == 0 { // a nil slice is no data
		return model.NewTensor(t.Elem, t.Shape...)
	}
	return t, nil
}

// narrow holds numbers to a smaller type.
func narrow[T int8 | int16 | uint8 | uint16, S int32 | uint32](from []S) ([]T, error) {
	to := make([]T, len(from))
	for i, v := range from {
		if to[i] = T(v); S(to[i]) != v {
			return nil, bad("element %d is out of range: %d", i, v)
		}
	}
	return to, nil
}

// grpcAnswer writes outputs raw if the request was, or if one has no other form.
func grpcAnswer(m *registry.Model, q *inferRequest, out []named) *inference.ModelInferResponse {
	a := &inference.ModelInferResponse{ModelName: m.Name, ModelVersion: m.Version, Id: q.id}
	raw := q.binary || len(q.inputs) == 0
	for _, x := range out {
		raw = raw || x.Elem == model.ElemF16 || x.Elem == model.ElemBF16
	}
	for _, x := range out {
		o := &inference.ModelInferResponse_InferOutputTensor{Name: x.name, Datatype: datatypeOf(x.Elem)}
		for _, d := range x.Shape {
			o.Shape = append(o.Shape, int64(d))
		}
		if raw {
			a.RawOutputContents = append(a.RawOutputContents, appendRaw([]byte{}, x.Tensor))
		} else {
			o.Contents = contents(x.Tensor)
		}
		a.Outputs = append(a.Outputs, o)
	}
	return a
}

func contents(t *model.Tensor) *inference.InferTensorContents {
	c := &inference.InferTensorContents{}
	switch x := t.Data.(type) {
	case []bool:
		c.BoolContents = x
	case []int8:
		c.IntContents = widen[int32](x)
	case []int16:
		c.IntContents = widen[int32](x)
	case []int32:
		c.IntContents = x
	case []int64:
		c.Int64Contents = x
	case []uint8:
		c.UintContents = widen[uint32](x)
	case []uint16:
		c.UintContents = widen[uint32](x)
	case []uint32:
		c.UintContents = x
	case []uint64:
		c.Uint64Contents = x
	case []float32:
		c.Fp32Contents = x
	case []float64:
		c.Fp64Contents = x
	case []string:
		for _, s := range x {
			c.BytesContents = append(c.BytesContents, []byte(s))
		}
	default:
		panic(fmt.Sprintf("oip: contents of %v", t.Elem)) // datatypes has no other
	}
	return c
}

func widen[T int32 | uint32, S int8 | int16 | uint8 | uint16](from []S) []T {
	to := make([]T, len(from))
	for i, v := range from {
		to[i] = T(v)
	}
	return to
}
