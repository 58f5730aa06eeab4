package openai

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/serve/engine"
)

func TestJSONMode(t *testing.T) {
	h, _ := newTest(t, Options{}, engine.Options{})
	for _, format := range []string{`{"type":"json_object"}`,
		`{"type":"json_schema","json_schema":{"name":"x","strict":true,"schema":{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"],"additionalProperties":false}}}`} {
		w := post(h, chatPath, `{"model":"abc","messages":[{"role":"user","content":"hi"}],"temperature":0,"max_tokens":200,"response_format":`+format+`}`)
		require.Equal(t, 200, w.Code, w.Body)
		var a struct{ Choices []chatChoice }
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
		require.Equal(t, engine.FinishStop, a.Choices[0].Finish, a.Choices[0].Message.Content)
		var v map[string]any
		require.NoError(t, json.Unmarshal([]byte(a.Choices[0].Message.Content), &v), a.Choices[0].Message.Content)
		if strings.Contains(format, "schema") {
			require.IsType(t, true, v["ok"])
		}
	}
	w := post(h, chatPath, `{"model":"abc","messages":[{"role":"user","content":"hi"}],"response_format":{"type":"json_schema","json_schema":{"schema":{"pattern":"x"}}}}`)
	require.Equal(t, 400, w.Code)
	require.Contains(t, w.Body.String(), `"param":"response_format.json_schema.schema"`)
}
