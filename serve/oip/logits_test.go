package oip

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/serve/oip/inference"
)

// TestLogits: what each token was drawn from, over REST and gRPC, is what the model
// computes of the same tokens, whatever is done to it for sampling.
func TestLogits(t *testing.T) {
	reg := newRegistry(t)
	m, release, err := reg.Acquire("org/abc")
	require.NoError(t, err)
	defer release()
	vocab := m.Session.Graph().Config.Vocab
	q := m.Session.NewSequence()
	defer q.Close()
	var want []float32
	for _, id := range []int32{'a', 'b', 'c'} {
		l, err := q.Extend(t.Context(), []int32{id}, nil)
		require.NoError(t, err)
		want = append(want, l...)
	}
	want = want[vocab:] // after "ab", and after "abc"

	h := NewHTTP(reg, Options{})
	ask := func(more string) (int, string) {
		w := call(h, "POST", "/v2/models/org/abc/infer", `{"inputs":[{"name":"input_ids","shape":[2],"datatype":"INT64","data":[97,98]}],"outputs":[{"name":"logits"},{"name":"output_ids"}],"parameters":{`+more+`}}`)
		return w.Code, w.Body.String()
	}
	status, body := ask(`"max_tokens":2,"repetition_penalty":1.5,"temperature":0.01,"seed":1`)
	require.Equal(t, 200, status, body)
	var a struct {
		Outputs []struct {
			Name, Datatype string
			Shape          []int
			Data           []float32
		}
	}
	require.NoError(t, json.Unmarshal([]byte(body), &a))
	require.Equal(t, []int{2, vocab}, a.Outputs[0].Shape)
	require.Equal(t, "FP32", a.Outputs[0].Datatype)
	require.InDeltaSlice(t, want, a.Outputs[0].Data, 1e-4) // rows of a step are added up in another order
	require.Equal(t, []float32{'c', 'd'}, a.Outputs[1].Data)
	for i, id := range a.Outputs[1].Data {
		row := a.Outputs[0].Data[i*vocab : (i+1)*vocab]
		require.Equal(t, slices.Max(row), row[int(id)])
	}

	c := inference.NewGRPCInferenceServiceClient(dial(t, reg, Options{}))
	r := &inference.ModelInferRequest{ModelName: "org/abc", Inputs: []*inferInput{{Name: "input_ids", Datatype: "INT64", Shape: []int64{2}, Contents: &typed{Int64Contents: []int64{'a', 'b'}}}},
		Outputs: []*inferOutput{{Name: "logits"}}, Parameters: map[string]*inference.InferParameter{"max_tokens": {ParameterChoice: &inference.InferParameter_Int64Param{Int64Param: 2}}}}
	g, err := c.ModelInfer(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, []int64{2, int64(vocab)}, g.GetOutputs()[0].GetShape())
	require.InDeltaSlice(t, want, g.GetOutputs()[0].GetContents().GetFp32Contents(), 1e-4)
	stream, err := c.ModelStreamInfer(t.Context())
	require.NoError(t, err)
	require.NoError(t, stream.Send(r))
	require.NoError(t, stream.CloseSend())
	var pieces []float32
	for last := false; !last; {
		p, err := stream.Recv()
		require.NoError(t, err)
		require.Empty(t, p.GetErrorMessage())
		pieces = append(pieces, p.GetInferResponse().GetOutputs()[0].GetContents().GetFp32Contents()...)
		last = p.GetInferResponse().GetParameters()["triton_final_response"].GetBoolParam()
	}
	require.InDeltaSlice(t, want, pieces, 1e-4)

	before := maxLogits
	defer func() { maxLogits = before }()
	maxLogits = 3*vocab - 1
	status, body = ask(`"max_tokens":3`)
	require.Equal(t, 400, status)
	require.Contains(t, body, fmt.Sprintf("want max_tokens of at most 2 with this vocabulary of %d, got 3", vocab))
	status, body = ask(`"max_tokens":2`)
	require.Equal(t, 200, status, body)
	w := call(h, "POST", "/v2/models/org/abc/infer", `{"inputs":[{"name":"text_input","shape":[2],"datatype":"BYTES","data":["a","b"]}],"outputs":[{"name":"logits"}],"parameters":{"max_tokens":1}}`)
	require.Equal(t, 400, w.Code)
	require.Contains(t, w.Body.String(), "logits: only for one prompt")
}
