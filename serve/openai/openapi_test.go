package openai

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
	AnyOf      []schema
	Required   []string
}

// described gives the paths (with their methods) and schemas of the OpenAPI document.
func described(t *testing.T) (map[string]map[string]json.RawMessage, map[string]schema) {
	t.Helper()
	b, err := os.ReadFile("../openapi/openapi.json")
	require.NoError(t, err)
	var doc struct {
		Paths      map[string]map[string]json.RawMessage
		Components struct{ Schemas map[string]schema }
	}
	require.NoError(t, json.Unmarshal(b, &doc))
	return doc.Paths, doc.Components.Schemas
}

func keys[T any](m map[string]T) []string {
	out := []string{}
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// supported are the fields of a table that are not refused whatever their value.
func supported[T any](t *testing.T, table fields[T]) []string {
	t.Helper()
	var out []string
	for name, f := range table {
		d, err := parse(`"x"`)
		require.NoError(t, err)
		if f(new(T), d) != errUnsupported {
			out = append(out, name)
		}
	}
	sort.Strings(out)
	return out
}

func tags(x any) []string {
	var out []string
	var add func(reflect.Type)
	add = func(r reflect.Type) {
		for i := range r.NumField() {
			f := r.Field(i)
			if f.Anonymous {
				add(f.Type)
			} else {
				out = append(out, strings.Split(f.Tag.Get("json"), ",")[0])
			}
		}
	}
	add(reflect.TypeOf(x))
	sort.Strings(out)
	return out
}

// TestDescription: the OpenAPI document has our paths, the fields we read and the
// fields we write, no more and no fewer.
func TestDescription(t *testing.T) {
	paths, schemas := described(t)
	ours := map[string]string{"/v1/models/{model}": "get"}
	for path, r := range routes {
		ours[path] = strings.ToLower(r.method)
	}
	for path, item := range paths {
		if strings.HasPrefix(path, "/v1/") {
			require.Contains(t, item, ours[path], path)
			delete(ours, path)
		}
	}
	require.Empty(t, ours, "paths without a description")

	require.Equal(t, supported(t, chatFields), keys(schemas["ChatRequest"].Properties))
	require.Equal(t, supported(t, completionFields), keys(schemas["CompletionRequest"].Properties))
	require.Equal(t, supported(t, embeddingFields), keys(schemas["EmbeddingRequest"].Properties))
	require.Equal(t, []string{"messages", "model"}, sorted(schemas["ChatRequest"].Required))

	chatChoices := schemas["ChatCompletion"].Properties["choices"].Items
	for name, c := range map[string]struct {
		value any
		want  schema
	}{
		"answer":         {answer{}, schemas["ChatCompletion"]},
		"choice":         {chatChoice{}, *chatChoices},
		"message":        {chatMessage{}, chatChoices.Properties["message"]},
		"chunk":          {answer{}, schemas["ChatCompletionChunk"]},
		"delta":          {chatDelta{}, *schemas["ChatCompletionChunk"].Properties["choices"].Items},
		"logprobs":       {chatLogprobs{}, schemas["ChatLogprobs"]},
		"token":          {chatToken{}, *schemas["ChatLogprobs"].Properties["content"].Items},
		"completion":     {answer{}, schemas["Completion"]},
		"text choice":    {textChoice{}, *schemas["Completion"].Properties["choices"].Items},
		"text logprobs":  {textLogprobs{}, schemas["TextLogprobs"]},
		"usage":          {usage{}, schemas["Usage"]},
		"embedding":      {embedding{}, *schemas["EmbeddingList"].Properties["data"].Items},
		"model":          {modelObject{}, schemas["Model"]},
		"error":          {problemBody{}, schemas["Error"]},
		"error's inside": {problemBody{}.Error, schemas["Error"].Properties["error"]},
	} {
		require.Equal(t, tags(c.value), keys(c.want.Properties), name)
	}
}

func sorted(s []string) []string { sort.Strings(s); return s }
