package oip

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/serve/registry"
	"github.com/sparserun/sparserun/serve/servetest"
)

// echoTypes are the datatypes of the network "echo".
var echoTypes = func() (names []string) {
	for _, d := range servetest.Types {
		names = append(names, d.Name)
	}
	return names
}()

// newRegistry holds "affine" (y = x*w), "echo", the language model "org/abc", whose name has
// a slash, and "gone", which is known but not loaded.
func newRegistry(t testing.TB) *registry.Registry {
	t.Helper()
	reg := registry.New(func() (runtime.Backend, error) { return cpu.New(), nil }, registry.Options{MemoryLimit: -1})
	t.Cleanup(func() { require.NoError(t, reg.Close()) })
	dense := runtime.Options{Sparse: runtime.SparseOff}
	for name, path := range map[string]string{"affine": servetest.Affine(t), "echo": servetest.Echo(t), "org/abc": servetest.Alphabet(t)} {
		require.NoError(t, reg.Load(t.Context(), registry.Spec{Name: name, Path: path, Options: dense}))
	}
	reg.Add(registry.Spec{Name: "gone", Path: "nowhere"})
	return reg
}

func call(h http.Handler, verb, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(verb, path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestAnswers(t *testing.T) {
	h := NewHTTP(newRegistry(t), Options{Version: "1.2"})
	const lmMeta = `"platform":"sparserun_safetensors","inputs":[{"name":"text_input","datatype":"BYTES","shape":[-1]},{"name":"input_ids","datatype":"INT64","shape":[-1]},{"name":"stream","datatype":"BOOL","shape":[1]},{"name":"sampling_parameters","datatype":"BYTES","shape":[1]},{"name":"exclude_input_in_output","datatype":"BOOL","shape":[1]}],"outputs":[{"name":"text_output","datatype":"BYTES","shape":[-1]},{"name":"finish_reason","datatype":"BYTES","shape":[-1]},{"name":"output_ids","datatype":"INT64","shape":[-1]},{"name":"logits","datatype":"FP32","shape":[-1,-1]}]}`
	for _, c := range []struct {
		verb, path, body string
		status           int
		want             string
	}{
		{"GET", "/v2", "", 200, `{"extensions":["binary_tensor_data","model_repository","model_repository(unload_dependents)","statistics","generate"],"name":"sparserun","version":"1.2"}`},
		{"GET", "/v2/", "", 200, `{"extensions":["binary_tensor_data","model_repository","model_repository(unload_dependents)","statistics","generate"],"name":"sparserun","version":"1.2"}`},
		{"GET", "/v2/health/live", "", 200, `{"live":true}`},
		{"GET", "/v2/health/ready", "", 200, `{"ready":true}`},
		{"GET", "/v2/models/affine", "", 200, `{"name":"affine","versions":["1"],"platform":"sparserun_onnx","inputs":[{"name":"x","datatype":"FP32","shape":[-1,3]}],"outputs":[{"name":"y","datatype":"FP32","shape":[-1,2]}]}`},
		{"GET", "/v2/models/org/abc", "", 200, `{"name":"org/abc","versions":["1"],` + lmMeta},
		{"GET", "/v2/models/org/abc/versions/1", "", 200, `{"name":"org/abc","versions":["1"],` + lmMeta},
		{"GET", "/v2/models/affine/ready", "", 200, `{"name":"affine","ready":true}`},
		{"GET", "/v2/models/org/abc/versions/1/ready", "", 200, `{"name":"org/abc","ready":true}`},
		{"GET", "/v2/models/gone/ready", "", 503, `{"name":"gone","ready":false}`},
		{"GET", "/v2/models/affine/versions/2", "", 404, `{"error":"model \"affine\" has version 1, not \"2\""}`},
		{"POST", "/v2/repository/index", `{"ready":true}`, 200, ``},
		{"POST", "/v2/models/affine/infer", `{"id":"7","inputs":[{"name":"x","shape":[2,3],"datatype":"FP32","data":[1,0,0,0,1,1]}]}`, 200,
			`{"model_name":"affine","model_version":"1","id":"7","outputs":[{"name":"y","datatype":"FP32","shape":[2,2],"data":[1,2,8,10]}]}`},
		{"POST", "/v2/models/affine/versions/1/infer", `{"inputs":[{"data":[[1,0,0],[0,1,1.0]],"datatype":"FP32","shape":[2,3],"name":"x"}],"outputs":[{"name":"y","parameters":{"binary_data":false}}],"parameters":{"binary_data_output":true}}`, 200,
			`{"model_name":"affine","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[2,2],"data":[1,2,8,10]}]}`},
		{"POST", "/v2/models/org/abc/infer", `{"id":"q","parameters":{"max_tokens":3},"inputs":[{"name":"text_input","shape":[2,1],"datatype":"BYTES","data":["a","x"]}]}`, 200,
			`{"model_name":"org/abc","model_version":"1","id":"q","outputs":[{"name":"text_output","datatype":"BYTES","shape":[2,1],"data":["bcd","yz"]},{"name":"finish_reason","datatype":"BYTES","shape":[2,1],"data":["length","stop"]}]}`},
		{"POST", "/v2/models/org/abc/infer", `{"inputs":[{"name":"input_ids","shape":[1,2],"datatype":"INT64","data":[97,98]},{"name":"sampling_parameters","shape":[1],"datatype":"BYTES","data":["{\"max_tokens\":\"2\",\"temperature\":\"0\"}"]},{"name":"stream","shape":[1],"datatype":"BOOL","data":[false]}],"outputs":[{"name":"output_ids"},{"name":"text_output"}]}`, 200,
			`{"model_name":"org/abc","model_version":"1","outputs":[{"name":"output_ids","datatype":"INT64","shape":[2],"data":[99,100]},{"name":"text_output","datatype":"BYTES","shape":[1],"data":["cd"]}]}`},
		{"POST", "/v2/models/org/abc/generate", `{"text_input":"m","max_tokens":3,"bad_words":"","stop_words":""}`, 200,
			`{"model_name":"org/abc","model_version":"1","text_output":"` + "\u00e9n" + `","finish_reason":"length"}`},
		{"POST", "/v2/models/org/abc/generate", `{"id":"3","text_input":"a","parameters":{"max_tokens":20,"stop":["fg"],"exclude_input_in_output":false,"stream":false}}`, 200,
			`{"id":"3","model_name":"org/abc","model_version":"1","text_output":"abcde","finish_reason":"stop"}`},
	} {
		w := call(h, c.verb, c.path, c.body)
		require.Equal(t, c.status, w.Code, "%s %s %s", c.path, c.body, w.Body)
		require.Equal(t, "application/json", w.Header().Get("Content-Type"))
		if c.want != "" {
			require.Equal(t, c.want, strings.TrimSpace(w.Body.String()), "%s %s", c.path, c.body)
		}
	}

	var index []indexLine
	w := call(h, "POST", "/v2/repository/index", "")
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &index))
	require.Len(t, index, 4)
	require.Contains(t, index, indexLine{Name: "gone", State: "UNAVAILABLE", Reason: "not loaded yet"})
	require.Contains(t, index, indexLine{Name: "affine", Version: "1", State: "READY"})
	require.NotContains(t, call(h, "POST", "/v2/repository/index", `{"ready":true}`).Body.String(), "gone")
}

// TestReadiness: while the server drains, it says so with its status.
func TestReadiness(t *testing.T) {
	h := NewHTTP(newRegistry(t), Options{Ready: func() bool { return false }})
	w := call(h, "GET", "/v2/health/ready", "")
	require.Equal(t, 503, w.Code)
	require.JSONEq(t, `{"ready":false}`, w.Body.String())
	require.Equal(t, 200, call(h, "GET", "/v2/health/live", "").Code)
}

// echoed is a tensor [2, 2] of each datatype: as JSON and as bytes.
var echoed = map[string]struct {
	data string
	raw  []byte
}{
	"BOOL":   {`[true,false,false,true]`, []byte{1, 0, 0, 1}},
	"UINT8":  {`[0,1,128,255]`, []byte{0, 1, 128, 255}},
	"UINT16": {`[0,1,258,65535]`, le(uint16(0), uint16(1), uint16(258), uint16(65535))},
	"UINT32": {`[0,1,2,4294967295]`, le(uint32(0), uint32(1), uint32(2), uint32(math.MaxUint32))},
	"UINT64": {`[0,1,9007199254740993,18446744073709551615]`, le(uint64(0), uint64(1), uint64(9007199254740993), uint64(math.MaxUint64))},
	"INT8":   {`[0,-1,127,-128]`, []byte{0, 255, 127, 128}},
	"INT16":  {`[0,-1,32767,-32768]`, le(int16(0), int16(-1), int16(32767), int16(-32768))},
	"INT32":  {`[0,-1,2147483647,-2147483648]`, le(int32(0), int32(-1), int32(math.MaxInt32), int32(math.MinInt32))},
	"INT64":  {`[0,-1,9223372036854775807,-9223372036854775808]`, le(int64(0), int64(-1), int64(math.MaxInt64), int64(math.MinInt64))},
	"FP16":   {`[0,1,-2,65504]`, le(uint16(0), uint16(0x3c00), uint16(0xc000), uint16(0x7bff))},
	"BF16":   {`[0,1,-2,0.5]`, le(uint16(0), uint16(0x3f80), uint16(0xc000), uint16(0x3f00))},
	"FP32":   {`[0,0.1,-2,3.4028235e+38]`, le(float32(0), float32(0.1), float32(-2), float32(math.MaxFloat32))},
	"FP64":   {`[0,0.1,-2,1.7976931348623157e+308]`, le(0.0, 0.1, -2.0, math.MaxFloat64)},
	"BYTES":  {`["","a","` + "\u00e9" + `","<&>"]`, []byte("\x00\x00\x00\x00\x01\x00\x00\x00a\x02\x00\x00\x00\u00e9\x03\x00\x00\x00<&>")},
}

func le(x ...any) []byte {
	var b bytes.Buffer
	for _, v := range x {
		_ = binary.Write(&b, binary.LittleEndian, v) // into memory
	}
	return b.Bytes()
}

// TestDatatypes: each comes back as it went, as JSON, nested JSON, and binary.
func TestDatatypes(t *testing.T) {
	h := NewHTTP(newRegistry(t), Options{})
	for _, nested := range []bool{false, true} {
		var in []string
		for _, d := range echoTypes {
			data := echoed[d].data
			if nested {
				var x []json.RawMessage
				require.NoError(t, json.Unmarshal([]byte(data), &x))
				data = "[[" + string(x[0]) + "," + string(x[1]) + "],[" + string(x[2]) + "," + string(x[3]) + "]]"
			}
			in = append(in, `{"name":"`+d+`","datatype":"`+d+`","shape":[2,2],"data":`+data+`}`)
		}
		w := call(h, "POST", "/v2/models/echo/infer", `{"inputs":[`+strings.Join(in, ",")+`]}`, "Content-Type", "application/json")
		require.Equal(t, 200, w.Code, w.Body)
		var a struct {
			Outputs []struct {
				Name, Datatype string
				Shape          []int
				Data           json.RawMessage
			}
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
		require.Len(t, a.Outputs, len(echoTypes))
		for i, d := range echoTypes {
			o := a.Outputs[i]
			require.Equal(t, d+"out", o.Name)
			require.Equal(t, d, o.Datatype)
			require.Equal(t, []int{2, 2}, o.Shape)
			require.Equal(t, echoed[d].data, string(o.Data), d)
		}
	}

	var in []string
	var raw []byte
	for _, d := range echoTypes {
		in = append(in, `{"name":"`+d+`","datatype":"`+d+`","shape":[2,2],"parameters":{"binary_data_size":`+strconv.Itoa(len(echoed[d].raw))+`}}`)
		raw = append(raw, echoed[d].raw...)
	}
	header := `{"parameters":{"binary_data_output":true},"inputs":[` + strings.Join(in, ",") + `]}`
	w := call(h, "POST", "/v2/models/echo/infer", header+string(raw), headerLength, strconv.Itoa(len(header)), "Content-Type", "application/octet-stream")
	require.Equal(t, 200, w.Code, w.Body)
	require.Equal(t, "application/octet-stream", w.Header().Get("Content-Type"))
	n, err := strconv.Atoi(w.Header().Get(headerLength))
	require.NoError(t, err)
	var a struct {
		Outputs []struct {
			Name       string
			Parameters struct {
				Size int `json:"binary_data_size"`
			}
			Data any
		}
	}
	body := w.Body.Bytes()
	require.NoError(t, json.Unmarshal(body[:n], &a))
	body = body[n:]
	for i, d := range echoTypes {
		require.Equal(t, d+"out", a.Outputs[i].Name)
		require.Nil(t, a.Outputs[i].Data)
		require.Equal(t, echoed[d].raw, body[:a.Outputs[i].Parameters.Size], d)
		body = body[a.Outputs[i].Parameters.Size:]
	}
	require.Empty(t, body)
}

// TestNotANumber: JSON has no NaN; binary tensors do.
func TestNotANumber(t *testing.T) {
	h := NewHTTP(newRegistry(t), Options{})
	raw := le(float32(math.NaN()), float32(0), float32(0))
	send := func(more string) *httptest.ResponseRecorder {
		header := `{` + more + `"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"parameters":{"binary_data_size":12}}]}`
		return call(h, "POST", "/v2/models/affine/infer", header+string(raw), headerLength, strconv.Itoa(len(header)))
	}
	w := send("")
	require.Equal(t, 400, w.Code)
	require.Contains(t, w.Body.String(), "ask for binary_data")
	require.Equal(t, 200, send(`"outputs":[{"name":"y","parameters":{"binary_data":true}}],`).Code)
}

func TestGenerateStream(t *testing.T) {
	srv := httptest.NewServer(NewHTTP(newRegistry(t), Options{}))
	defer srv.Close()
	res, err := http.Post(srv.URL+"/v2/models/org/abc/generate_stream", "application/json", strings.NewReader(`{"text_input":"a","parameters":{"max_tokens":4},"stream":true}`))
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, 200, res.StatusCode)
	require.Equal(t, "text/event-stream; charset=utf-8", res.Header.Get("Content-Type"))
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	events := strings.Split(strings.TrimSuffix(string(b), "\n\n"), "\n\n")
	text := ""
	for i, e := range events {
		var g generated
		require.NoError(t, json.Unmarshal([]byte(strings.TrimPrefix(e, "data: ")), &g), e)
		require.Equal(t, "org/abc", g.Model)
		require.Equal(t, i == len(events)-1, g.Finish == "length", e)
		text += g.Text
	}
	require.Equal(t, "bcde", text)
}

func TestRepository(t *testing.T) {
	reg := newRegistry(t)
	public, admin := NewHTTP(reg, Options{}), NewHTTP(reg, Options{Control: true})
	require.Equal(t, 403, call(public, "POST", "/v2/repository/models/affine/unload", "{}").Code)
	require.Equal(t, 403, call(public, "POST", "/v2/repository/models/affine/load", "{}").Code)
	w := call(admin, "POST", "/v2/repository/models/affine/unload", `{"parameters":{"unload_dependents":false}}`)
	require.Equal(t, 200, w.Code, w.Body)
	require.Equal(t, "{}\n", w.Body.String())
	w = call(admin, "GET", "/v2/models/affine", "")
	require.Equal(t, 503, w.Code)
	require.NotEmpty(t, w.Header().Get("Retry-After"))
	for _, name := range []string{"affine", "gone"} { // unloaded already, never loaded
		w = call(admin, "POST", "/v2/repository/models/"+name+"/unload", "")
		require.Equal(t, 409, w.Code, w.Body)
		require.Contains(t, w.Body.String(), "model is not loaded")
		require.Empty(t, w.Header().Get("Retry-After"), "a later try is no better")
	}
	require.Equal(t, 200, call(admin, "POST", "/v2/repository/models/affine/load", "").Code)
	require.Equal(t, 200, call(public, "GET", "/v2/models/affine", "").Code)
	require.Equal(t, 404, call(admin, "POST", "/v2/repository/models/never/load", "").Code)
	require.Equal(t, 404, call(admin, "POST", "/v2/repository/models/never/unload", "").Code)
	require.Equal(t, 400, call(admin, "POST", "/v2/repository/models/gone/load", "").Code)
	require.Equal(t, 400, call(admin, "POST", "/v2/repository/models/affine/load", `{"parameters":{"config":"{}"}}`).Code)
}

// TestVerbsAreNoNames: no model's name can end in what a path has after it.
func TestVerbsAreNoNames(t *testing.T) {
	for v := range verbs {
		if v != "" {
			require.ErrorIs(t, registry.CheckName("x/"+v), registry.ErrName, v)
		}
	}
	for _, name := range []string{"stats", "x/ready", "x/versions/1"} {
		require.ErrorIs(t, registry.CheckName(name), registry.ErrName, name)
	}
}

func TestStatistics(t *testing.T) {
	h := NewHTTP(newRegistry(t), Options{})
	for range 3 {
		require.Equal(t, 200, call(h, "POST", "/v2/models/affine/infer", `{"inputs":[{"name":"x","shape":[2,3],"datatype":"FP32","data":[1,0,0,0,1,1]}]}`).Code)
	}
	require.Equal(t, 200, call(h, "POST", "/v2/models/org/abc/generate", `{"text_input":"a"}`).Code)
	var a statsAnswer
	w := call(h, "GET", "/v2/models/affine/stats", "")
	require.Equal(t, 200, w.Code)
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
	require.Len(t, a.Models, 1)
	st := a.Models[0]
	require.Equal(t, "affine", st.Name)
	require.EqualValues(t, 6, st.Inferences)
	require.EqualValues(t, 3, st.Stats.Success.Count)
	require.NotZero(t, st.Stats.Success.NS)
	require.NotZero(t, st.Last)
	require.NoError(t, json.Unmarshal(call(h, "GET", "/v2/models/stats", "").Body.Bytes(), &a))
	require.Len(t, a.Models, 3)
	for _, st := range a.Models {
		if st.Name == "org/abc" {
			require.EqualValues(t, 1, st.Inferences)
			require.GreaterOrEqual(t, st.Executions, uint64(16), "a step per token")
		}
	}
}

// TestElems: the protocol's types are all that a tensor may have and not one more.
func TestElems(t *testing.T) {
	for e := model.ElemNone; e <= model.ElemI2; e++ {
		if d := datatypeOf(e); d != "" {
			back, size, err := elemOf(d)
			require.NoError(t, err)
			require.Equal(t, e, back)
			require.Equal(t, e.Bits()/8 == size || e == model.ElemBool, true, d)
		}
	}
}
