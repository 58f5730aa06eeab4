package openapi

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDocument: every reference leads somewhere, and nothing is there that nobody
// refers to.
func TestDocument(t *testing.T) {
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/openapi.json", nil))
	require.Equal(t, 200, w.Code)
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	var doc struct {
		OpenAPI    string
		Paths      map[string]map[string]any
		Components struct{ Responses, Schemas map[string]any }
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &doc))
	require.Equal(t, "3.1.0", doc.OpenAPI)

	used, ids := map[string]bool{}, map[string]bool{}
	var walk func(v any)
	walk = func(v any) {
		switch x := v.(type) {
		case map[string]any:
			for k, v := range x {
				if s, ok := v.(string); ok && k == "$ref" {
					used[s] = true
				}
				if s, ok := v.(string); ok && k == "operationId" {
					require.False(t, ids[s], "operation %s twice", s)
					ids[s] = true
				}
				walk(v)
			}
		case []any:
			for _, v := range x {
				walk(v)
			}
		}
	}
	var all any
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &all))
	walk(all)
	for kind, list := range map[string]map[string]any{"responses": doc.Components.Responses, "schemas": doc.Components.Schemas} {
		for name := range list {
			r := "#/components/" + kind + "/" + name
			// Either family has an answer for each status, used or not.
			require.True(t, used[r] || kind == "responses", "nobody refers to %s", r)
			delete(used, r)
		}
	}
	require.Empty(t, used, "references to what is not there")
	for path, item := range doc.Paths {
		require.Equal(t, strings.Contains(path, "{model}"), item["parameters"] != nil, path)
	}

	w = httptest.NewRecorder()
	Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/openapi.json", nil))
	require.Equal(t, http.StatusMethodNotAllowed, w.Code)
}
