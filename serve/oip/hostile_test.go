package oip

import (
	"encoding/binary"
	"fmt"
	goruntime "runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/sparserun/sparserun/serve/oip/inference"
)

// TestProblems: what each wrong request is answered with.
func TestProblems(t *testing.T) {
	h := NewHTTP(newRegistry(t), Options{MaxBody: 1 << 20})
	const affine, abc = "/v2/models/affine/infer", "/v2/models/org/abc/infer"
	x := func(s string) string { return `{"inputs":[{"name":"x","datatype":"FP32",` + s + `}]}` }
	text := func(s string) string {
		return `{"inputs":[{"name":"text_input","datatype":"BYTES","shape":[1],"data":["a"]}]` + s + `}`
	}
	for _, c := range []struct {
		verb, path, body string
		status           int
		says             string
	}{
		{"GET", "/v2/nothing", "", 404, "unknown URL"},
		{"GET", "/v3", "", 404, "unknown URL"},
		{"DELETE", "/v2/models/affine", "", 405, "want GET"},
		{"GET", affine, "", 405, "want POST"},
		{"POST", "/v2/models/nobody/infer", "{}", 404, "no such model"},
		{"POST", "/v2/models/gone/infer", "{}", 503, "not loaded"},
		{"POST", affine, "", 400, "json"},
		{"POST", affine, "[]", 400, "object"},
		{"POST", affine, "{}", 400, "inputs"},
		{"POST", affine, `{"inputs":[],"inputs":[]}`, 400, "twice"},
		{"POST", affine, `{"inputs":[]} x`, 400, "end"},
		{"POST", affine, strings.Repeat("[", 100000), 400, "json"},
		{"POST", affine, strings.Repeat(" ", 2<<20), 413, "too large"},
		{"POST", affine, `{"inputs":[]}`, 400, `"x\" is missing`},
		{"POST", affine, `{"inputs":[3]}`, 400, "objects"},
		{"POST", affine, `{"inputs":[{}]}`, 400, "name"},
		{"POST", affine, `{"inputs":[{"name":"x"}]}`, 400, "shape"},
		{"POST", affine, x(`"data":[1]`), 400, "shape"},
		{"POST", affine, x(`"shape":[1,3]`), 400, "data is required"},
		{"POST", affine, x(`"shape":[1,3],"data":[1,2]`), 400, "3 elements, data has 2"},
		{"POST", affine, x(`"shape":[1,3],"data":[1,2,3,4]`), 400, "more"},
		{"POST", affine, x(`"shape":[1,3],"data":[[1],[2],[3]]`), 400, "dimension 1"},
		{"POST", affine, x(`"shape":[1,3],"data":[[[1,2,3]]]`), 400, "deeper"},
		{"POST", affine, x(`"shape":[1,3],"data":[[1,2,3],4]`), 400, "unevenly"},
		{"POST", affine, x(`"shape":[1,1,3],"data":[[1,2,3]]`), 400, "less deep"},
		{"POST", affine, x(`"shape":[1,3],"data":["a",2,3]`), 400, "numbers"},
		{"POST", affine, x(`"shape":[1,3],"data":[1e60,2,3]`), 400, "32 bits"},
		{"POST", affine, x(`"shape":[1,3],"data":{}`), 400, "array"},
		{"POST", affine, x(`"shape":[-1,3],"data":[]`), 400, "dimensions"},
		{"POST", affine, x(`"shape":[1.5,3],"data":[]`), 400, "integers"},
		{"POST", affine, x(`"shape":[99999999999999999999,3],"data":[]`), 400, "integers"},
		{"POST", affine, x(`"shape":[2147483647,2147483647,2147483647],"data":[]`), 400, "shape"},
		{"POST", affine, x(`"shape":[1000000000,3],"data":[1]`), 400, "shape"},
		{"POST", affine, x(`"shape":[100000000,3],"data":[1]`), 400, "data has 1"},
		{"POST", affine, x(`"shape":[` + strings.Repeat("1,", 99) + `1],"data":[1]`), 400, "dimensions"},
		{"POST", affine, x(`"shape":[3],"data":[1,2,3]`), 400, "want shape [-1 3]"},
		{"POST", affine, x(`"shape":[1,4],"data":[1,2,3,4]`), 400, "want shape [-1 3]"},
		{"POST", affine, x(`"shape":[1,3],"data":[1,2,3],"extra":1`), 400, "unknown field"},
		{"POST", affine, x(`"shape":[1,3],"parameters":{"shared_memory_region":"r"}`), 400, "data"},
		{"POST", affine, x(`"shape":[1,3],"parameters":{"binary_data_size":12}`), 400, "0 bytes left"},
		{"POST", affine, x(`"shape":[1,3],"parameters":{"binary_data_size":-1}`), 400, "integer"},
		{"POST", affine, `{"inputs":[{"name":"x","datatype":"FP31","shape":[1],"data":[1]}]}`, 400, "unknown datatype"},
		{"POST", affine, `{"inputs":[{"name":"x","datatype":"INT8","shape":[1,3],"data":[1,2,3]}]}`, 400, "want datatype FP32"},
		{"POST", affine, `{"inputs":[{"name":"x","datatype":"INT8","shape":[1,3],"data":[1,2,128]}]}`, 400, "8 bits"},
		{"POST", affine, `{"inputs":[{"name":"x","datatype":"UINT8","shape":[1],"data":[-1]}]}`, 400, "without a sign"},
		{"POST", affine, `{"inputs":[{"name":"x","datatype":"FP16","shape":[1],"data":[70000]}]}`, 400, "16 bits"},
		{"POST", affine, `{"inputs":[{"name":"z","datatype":"FP32","shape":[1],"data":[1]}]}`, 400, "no input"},
		{"POST", affine, `{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2,3]},{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2,3]}]}`, 400, "twice"},
		{"POST", affine, `{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2,3]}],"outputs":[{"name":"z"}]}`, 400, "no output"},
		{"POST", affine, `{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2,3]}],"outputs":[` + strings.Repeat(`{"name":"y"},`, 300) + `{"name":"y"}]}`, 400, "twice"},
		{"POST", affine, `{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2,3]}],"outputs":[{"name":"y","parameters":{"classification":3}}]}`, 400, "classification"},
		{"POST", affine, `{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2,3]}],"parameters":{"sequence_id":5}}`, 400, "sequence_id"},
		{"POST", affine, `{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2,3]}],"parameters":{"temperature":1}}`, 400, "no parameter"},
		{"POST", abc, `{"inputs":[]}`, 400, "text_input and input_ids"},
		{"POST", abc, text(`,"parameters":{"max_tokens":0}`), 400, "max_tokens"},
		{"POST", abc, text(`,"parameters":{"temperature":3}`), 400, "temperature"},
		{"POST", abc, text(`,"parameters":{"temprature":1}`), 400, "unknown parameter"},
		{"POST", abc, text(`,"parameters":{"stream":true}`), 400, "ModelStreamInfer"},
		{"POST", abc, text(`,"parameters":{"bad_words":"x"}`), 400, "bad_words"},
		{"POST", abc, text(`,"parameters":{"stop":[""]}`), 400, "stop"},
		{"POST", abc, text(`,"outputs":[{"name":"scores"}]`), 400, "no output"},
		{"POST", abc, `{"inputs":[{"name":"input_ids","datatype":"INT64","shape":[1],"data":[259]}]}`, 400, "below 259"},
		{"POST", abc, `{"inputs":[{"name":"input_ids","datatype":"INT64","shape":[1],"data":[-1]}]}`, 400, "no such token"},
		{"POST", abc, `{"inputs":[{"name":"input_ids","datatype":"INT64","shape":[0],"data":[]}]}`, 400, "want shape"},
		{"POST", abc, `{"inputs":[{"name":"text_input","datatype":"BYTES","shape":[1],"data":["` + strings.Repeat("x", 2048) + `"]}]}`, 400, "context"},
		{"POST", abc, `{"inputs":[{"name":"text_input","datatype":"BYTES","shape":[1],"data":["` + strings.Repeat("x", 1000000) + `"]}]}`, 400, "context"},
		{"POST", abc, `{"inputs":[{"name":"text_input","datatype":"BYTES","shape":[1],"data":[""]}]}`, 400, "at least one token"},
		{"POST", "/v2/models/affine/generate", `{"text_input":"a"}`, 400, "no language model"},
		{"POST", "/v2/models/org/abc/generate", `{}`, 400, "text_input"},
		{"POST", "/v2/models/org/abc/generate", `{"text_input":["a"]}`, 400, "string"},
		{"POST", "/v2/models/org/abc/generate", `{"text_input":"a","temperature":0,"parameters":{"temperature":0}}`, 400, "twice"},
		{"POST", "/v2/models/org/abc/generate", `{"text_input":"a","foo":0}`, 400, "unknown field"},
		{"POST", "/v2/models/org/abc/generate_stream", `{"text_input":"a","max_tokens":"many"}`, 400, "max_tokens"},
		{"POST", "/v2/repository/index", `{"ready":1}`, 400, "ready"},
	} {
		w := call(h, c.verb, c.path, c.body)
		what := fmt.Sprintf("%s %.200s -> %s", c.path, c.body, w.Body)
		require.Equal(t, c.status, w.Code, what)
		require.Regexp(t, `^\{"error":".*"\}\n$`, w.Body.String())
		require.Contains(t, w.Body.String(), c.says, what)
	}
	require.Equal(t, 415, call(h, "POST", affine, "{}", "Content-Type", "text/plain").Code)
	require.Equal(t, 415, call(h, "POST", affine, "{}", "Content-Encoding", "gzip").Code)
}

// TestLyingBinaries: sizes and lengths that are not so.
func TestLyingBinaries(t *testing.T) {
	h := NewHTTP(newRegistry(t), Options{})
	u32 := func(n uint32) string { return string(binary.LittleEndian.AppendUint32(nil, n)) }
	for name, c := range map[string]struct{ input, raw, length, says string }{
		"beyond the body":       {`"datatype":"FP32","shape":[1,3],"parameters":{"binary_data_size":13}`, strings.Repeat("x", 12), "", "12 bytes left"},
		"not the shape's":       {`"datatype":"FP32","shape":[1,3],"parameters":{"binary_data_size":8}`, strings.Repeat("x", 8), "", "is 12 bytes, got 8"},
		"huge shape":            {`"datatype":"FP32","shape":[1000000000],"parameters":{"binary_data_size":4}`, "xxxx", "", "4000000000 bytes"},
		"overflow":              {`"datatype":"FP64","shape":[2147483647,2147483647,2147483647,4],"parameters":{"binary_data_size":0}`, "", "", "shape"},
		"negative":              {`"datatype":"FP32","shape":[-1],"parameters":{"binary_data_size":0}`, "", "", "dimensions"},
		"left over":             {`"datatype":"FP32","shape":[1,3],"parameters":{"binary_data_size":12}`, strings.Repeat("x", 13), "", "1 bytes after"},
		"data too":              {`"datatype":"FP32","shape":[1,3],"data":[1,2,3],"parameters":{"binary_data_size":12}`, strings.Repeat("x", 12), "", "has data and"},
		"header beyond":         {`"datatype":"FP32","shape":[1,3],"data":[1,2,3]`, "", "100000", headerLength},
		"header negative":       {`"datatype":"FP32","shape":[1,3],"data":[1,2,3]`, "", "-1", headerLength},
		"header zero":           {`"datatype":"FP32","shape":[1,3],"data":[1,2,3]`, "", "0", headerLength},
		"header short":          {`"datatype":"FP32","shape":[1,3],"data":[1,2,3]`, "", "5", "json"},
		"bool":                  {`"datatype":"BOOL","shape":[1],"parameters":{"binary_data_size":1}`, "\x02", "", "0 or 1"},
		"bytes too long":        {`"datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":5}`, u32(2) + "x", "", "said to have 2 bytes, 1 are left"},
		"bytes of 4 GB":         {`"datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":5}`, u32(1<<32-1) + "x", "", "said to have"},
		"bytes cut":             {`"datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":5}`, u32(0) + "x", "", "too many"},
		"bytes: more elements":  {`"datatype":"BYTES","shape":[1000000],"parameters":{"binary_data_size":4}`, u32(0), "", "at least 4000000 bytes"},
		"bytes: fewer elements": {`"datatype":"BYTES","shape":[2],"parameters":{"binary_data_size":8}`, u32(4) + "xxxx", "", "end before"},
	} {
		header := `{"inputs":[{"name":"x",` + c.input + `}]}`
		length := c.length
		if length == "" {
			length = strconv.Itoa(len(header))
		}
		w := call(h, "POST", "/v2/models/affine/infer", header+c.raw, headerLength, length)
		require.Equal(t, 400, w.Code, "%s: %s", name, w.Body)
		require.Contains(t, w.Body.String(), c.says, name)
	}
}

// allocated is the memory that f asks for, in all.
func allocated(f func()) uint64 {
	var before, after goruntime.MemStats
	goruntime.ReadMemStats(&before)
	f()
	goruntime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// FuzzInfer: whatever a body says, reading it asks for a small multiple of its size, and
// tensors are what their shapes say.
func FuzzInfer(f *testing.F) {
	for _, s := range []string{
		`{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[[1,2,3]]}],"outputs":[{"name":"y","parameters":{"binary_data":true}}]}`,
		`{"id":"a","parameters":{"binary_data_output":true,"stop":["a"]},"inputs":[{"name":"x","datatype":"BYTES","shape":[2],"parameters":{"binary_data_size":9}}]}` + "\x01\x00\x00\x00x\x00\x00\x00\x00",
		`{"inputs":[{"name":"x","datatype":"INT64","shape":[2147483647,2],"data":[]}]}`,
		`{"inputs":[{"name":"x","datatype":"BOOL","shape":[],"data":true},{"name":"y","datatype":"FP16","shape":[0,5],"data":[]}]}`,
	} {
		f.Add([]byte(s), strings.LastIndexByte(s, '}')+1)
	}
	f.Fuzz(func(t *testing.T, body []byte, header int) {
		var q *inferRequest
		var err error
		used := allocated(func() {
			var text string
			var tensors []byte
			if text, tensors, err = split(body, strconv.Itoa(header)); err == nil {
				q, err = parseInfer(text, tensors)
			}
		})
		require.Less(t, used, uint64(200*len(body)+1<<20))
		if err != nil {
			require.Equal(t, 400, explain(err).http, err)
			return
		}
		for _, x := range q.inputs {
			require.NoError(t, x.Check())
		}
	})
}

// FuzzGRPC: the same of a gRPC request.
func FuzzGRPC(f *testing.F) {
	for _, r := range []*inference.ModelInferRequest{
		{Inputs: []*inference.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "FP32", Shape: []int64{1, 3}, Contents: &inference.InferTensorContents{Fp32Contents: []float32{1, 2, 3}}}}},
		{Inputs: []*inference.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "BYTES", Shape: []int64{2}}}, RawInputContents: [][]byte{{1, 0, 0, 0, 'x', 0, 0, 0, 0}}},
		{Inputs: []*inference.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "INT8", Shape: []int64{1 << 31}, Contents: &inference.InferTensorContents{IntContents: []int32{300}}}}},
	} {
		b, err := proto.Marshal(r)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r := &inference.ModelInferRequest{}
		if proto.Unmarshal(body, r) != nil {
			return
		}
		var q *inferRequest
		var err error
		require.Less(t, allocated(func() { q, err = parseGRPC(r) }), uint64(200*len(body)+1<<20))
		if err != nil {
			require.Equal(t, 400, explain(err).http, err)
			return
		}
		for _, x := range q.inputs {
			require.NoError(t, x.Check())
		}
	})
}
