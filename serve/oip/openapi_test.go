package oip

import (
	"encoding/json"
	"os"
	"reflect"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

type schema struct {
	Properties map[string]schema
	Items      *schema
	Enum       []string
}

// TestDescription: the OpenAPI document has our paths, the fields we read and the
// fields we write, no more and no fewer.
func TestDescription(t *testing.T) {
	b, err := os.ReadFile("../openapi/openapi.json")
	require.NoError(t, err)
	var doc struct {
		Paths      map[string]map[string]any
		Components struct{ Schemas map[string]schema }
	}
	require.NoError(t, json.Unmarshal(b, &doc))
	ours := map[string]string{"/v2": "get", "/v2/health/live": "get", "/v2/health/ready": "get", "/v2/models/stats": "get",
		"/v2/repository/index": "post", "/v2/repository/models/{model}/load": "post", "/v2/repository/models/{model}/unload": "post"}
	for _, base := range []string{"/v2/models/{model}", "/v2/models/{model}/versions/{version}"} {
		ours[base+"/ready"] = "get"
		for v, r := range verbs {
			ours[strings.TrimSuffix(base+"/"+v, "/")] = strings.ToLower(r.method)
		}
	}
	h := NewHTTP(newRegistry(t), Options{})
	for path, item := range doc.Paths {
		if strings.HasPrefix(path, "/v2") {
			require.Contains(t, item, ours[path], path)
			delete(ours, path)
			// Another method is refused with the right one: the path is routed.
			w := call(h, "PUT", strings.NewReplacer("{model}", "affine", "{version}", "1").Replace(path), "")
			require.Equal(t, 405, w.Code, path)
			require.Contains(t, item, strings.ToLower(w.Header().Get("Allow")), path)
		}
	}
	require.Empty(t, ours, "paths without a description")

	s := doc.Components.Schemas
	want := []string{"id", "parameters", "text_input", "timeout"}
	for name := range settings {
		want = append(want, name)
	}
	sort.Strings(want)
	require.Equal(t, want, keys(s["GenerateRequest"]))
	require.Equal(t, []string{"id", "inputs", "outputs", "parameters"}, keys(s["InferRequest"]))
	require.Equal(t, []string{"data", "datatype", "name", "parameters", "shape"}, keys(s["InferInput"]))
	var names []string
	for _, d := range datatypes {
		names = append(names, d.name)
	}
	require.ElementsMatch(t, names, s["InferInput"].Properties["datatype"].Enum)
	for name, c := range map[string]struct {
		value any
		want  schema
	}{
		"metadata": {metadata{}, s["ModelMetadata"]}, "port": {portInfo{}, *s["ModelMetadata"].Properties["inputs"].Items},
		"infer": {inferAnswer{}, s["InferResponse"]}, "output": {outputTensor{}, *s["InferResponse"].Properties["outputs"].Items},
		"generated": {generated{}, s["GenerateResponse"]}, "statistics": {modelStatistics{}, s["ModelStatistics"]},
		"inferences": {inferStats{}, s["ModelStatistics"].Properties["inference_stats"]}, "duration": {duration{}, s["Duration"]},
		"memory": {memoryUsage{}, *s["ModelStatistics"].Properties["memory_usage"].Items}, "index": {indexLine{}, *s["RepositoryIndex"].Items},
	} {
		require.Equal(t, tags(c.value), keys(c.want), name)
	}
}

func keys(s schema) []string {
	var out []string
	for k := range s.Properties {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

func tags(x any) []string {
	var out []string
	r := reflect.TypeOf(x)
	for i := range r.NumField() {
		out = append(out, strings.Split(r.Field(i).Tag.Get("json"), ",")[0])
	}
	sort.Strings(out)
	return out
}
