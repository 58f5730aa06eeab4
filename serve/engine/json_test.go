package engine

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/testenv"
	"github.com/sparserun/sparserun/tokenizer"
)

func vocabularies(t testing.TB) map[string]*jsonVocabulary {
	t.Helper()
	out := map[string]*jsonVocabulary{}
	paths := map[string]string{"stories260K": filepath.Dir(testenv.Data(t, "stories260K/config.json"))}
	if !testing.Short() {
		paths["SmolLM2"] = testenv.Model(t)
	}
	for name, path := range paths {
		g, err := loader.Open(path)
		require.NoError(t, err)
		require.NoError(t, g.Close())
		v, err := newJSONVocabulary(g.Tokenizer)
		require.NoError(t, err)
		out[name] = v
	}
	return out
}

// write lets a constraint choose among random logits; the text's bytes, and whether it
// ended of its own accord.
func write(t testing.TB, v *jsonVocabulary, c Constraint, r *rand.Rand, tokens int, favour []int32) (string, bool) {
	t.Helper()
	logits := make([]float32, v.size+3)
	var text []byte
	for left := tokens; left > 0; left-- {
		for i := range logits {
			logits[i] = r.Float32()
		}
		for _, id := range favour {
			logits[id] += r.Float32()
		}
		c.(Budgeted).Left(left)
		eog := c.Mask(logits)
		best := -1
		for i, l := range logits {
			if !math.IsInf(float64(l), -1) && (eog || !slices.Contains(v.eog, int32(i))) && (best < 0 || l > logits[best]) {
				best = i
			}
		}
		require.GreaterOrEqual(t, best, 0, "nothing may follow %q", text)
		if slices.Contains(v.eog, int32(best)) {
			return string(text), true
		}
		text = append(text, v.bytes[best]...)
		if c.Accept(int32(best)) {
			return string(text), true
		}
	}
	return string(text), false
}

// TestJSONAlwaysParses: whatever the logits are, and however few tokens there are, a
// text is one JSON object; with many tokens of structure among the likely ones, so
// that texts nest.
func TestJSONAlwaysParses(t *testing.T) {
	for name, v := range vocabularies(t) {
		rounds := 400
		if name != "stories260K" {
			rounds = 15
		}
		var favour []int32
		for id, b := range v.bytes {
			if strings.ContainsAny(string(b), `{}[]":,`) || len(b) == 1 && (strings.IndexByte("0123456789tfn\\u", b[0]) >= 0 || b[0] >= 0x80) {
				favour = append(favour, int32(id))
			}
		}
		deepest := 0
		for i := range rounds {
			c, err := v.constraint(nil)
			require.NoError(t, err)
			r := rand.New(rand.NewPCG(uint64(i), 1))
			f := favour
			if i%4 == 0 {
				f = nil
			}
			text, ended := write(t, v, c, r, 2+i%150, f)
			require.True(t, ended, "%s %d: %q", name, i, text)
			var x map[string]any
			require.NoError(t, json.Unmarshal([]byte(text), &x), "%s %d: %q", name, i, text)
			deepest = max(deepest, strings.Count(text, "{"))
		}
		require.Greater(t, deepest, 3, "nothing nests: nothing was tested")
	}
}

const personSchema = `{"type":"object","title":"a person","properties":{
	"name":{"type":"string"},"age":{"type":"integer"},"n\u00e4me \"2\"":{"type":["string","null"]},
	"mood":{"enum":["glad","gla","sad",1,12,true,null,{"a":[1,"x"]}]},
	"pets":{"type":"array","items":{"type":"object","properties":{"kind":{"const":"cat"},"lives":{"type":"number"},"old":{"type":"boolean"}},"required":["kind","lives"]}},
	"any":{}, "more":{"type":"object","additionalProperties":{"type":"boolean"}}, "none":{"type":"object","additionalProperties":false}
},"required":["name","pets","mood"],"additionalProperties":false}`

func TestJSONSchema(t *testing.T) {
	for name, v := range vocabularies(t) {
		rounds := 300
		if name != "stories260K" {
			rounds = 10
		}
		seen := map[string]int{}
		for i := range rounds {
			c, err := v.constraint([]byte(personSchema))
			require.NoError(t, err)
			text, ended := write(t, v, c, rand.New(rand.NewPCG(uint64(i), 2)), 60+i%200, nil)
			require.True(t, ended, "%q", text)
			var x map[string]any
			require.NoError(t, json.Unmarshal([]byte(text), &x), "%q", text)
			for k, val := range x {
				seen[k]++
				ok := false
				switch k {
				case "name":
					_, ok = val.(string)
				case "age":
					f, isNumber := val.(float64)
					ok = isNumber && f == math.Trunc(f)
				case "näme \"2\"":
					_, ok = val.(string)
					ok = ok || val == nil
				case "mood":
					ok = slices.Contains([]string{"glad", "gla", "sad", "1", "12", "true", "<nil>", "map[a:[1 x]]"}, fmt.Sprint(val))
				case "pets":
					var list []any
					list, ok = val.([]any)
					for _, e := range list {
						p := e.(map[string]any)
						_, number := p["lives"].(float64)
						_, old := p["old"].(bool)
						ok = ok && p["kind"] == "cat" && number && (old || p["old"] == nil)
					}
				case "any":
					ok = true
				case "more":
					var m map[string]any
					m, ok = val.(map[string]any)
					for _, e := range m {
						_, b := e.(bool)
						ok = ok && b
					}
				case "none":
					var m map[string]any
					m, ok = val.(map[string]any)
					ok = ok && len(m) == 0
				}
				require.True(t, ok, "%s: %q is %v in %q", name, k, val, text)
			}
			require.Contains(t, x, "name")
			require.Contains(t, x, "pets")
			require.Contains(t, x, "mood")
		}
		if name == "stories260K" {
			require.Len(t, seen, 8, "%v", seen)
		}
	}
}

func TestJSONSchemaValues(t *testing.T) {
	v := vocabularies(t)["stories260K"]
	for _, c := range []struct{ schema, want string }{
		{`{"type":"boolean"}`, `true|false`}, {`{"const":{"b":1,"a":"<é>"}}`, `{"a":"<é>","b":1}`}, {`{"enum":["x"],"type":"string"}`, `"x"`},
		{`{"$ref":"#/$defs/a","$defs":{"a":{"anyOf":[{"const":"x"},{"type":"null"},{"type":"boolean"}],"title":"a"}}}`, `"x"|null|true|false`},
		{`{"allOf":[{"oneOf":[{"type":"boolean"},{"type":"object","properties":{},"additionalProperties":false}]}]}`, `true|false|{}`},
		{`{"type":"null"}`, `null`}, {`{"enum":[1,"a",12,1.5],"type":["integer"]}`, `1|12`},
	} {
		for i := range 20 {
			con, err := v.constraint([]byte(c.schema))
			require.NoError(t, err)
			text, ended := write(t, v, con, rand.New(rand.NewPCG(uint64(i), 3)), 60, nil)
			require.True(t, ended || c.want == "1|12", "%s: %q", c.schema, text)
			require.Contains(t, strings.Split(c.want, "|"), strings.Join(strings.Fields(text), ""))
		}
	}
	for _, c := range []struct{ schema, word string }{
		{`{"type":"object","patternProperties":{}}`, "patternProperties"}, {`{"anyOf":[]}`, "anyOf"}, {`{"anyOf":[{"type":"string"},{"type":["string","null"]}]}`, "one type"}, {`{"not":{}}`, "not"},
		{`{"$ref":"#/$defs/a","$defs":{"a":{"items":{"$ref":"#/$defs/a"}}}}`, "deeper"}, {`{"$ref":"http://x"}`, "definitions"}, {`{"oneOf":[{"enum":["a"]},{"type":"string"}]}`, "enum beside"},
		{`{"$ref":"#/$defs/a","type":"string","$defs":{"a":{}}}`, "beside"}, {`{"allOf":[{},{}]}`, "allOf"}, {`{"items":{"$defs":{}}}`, "at the top"}, {`{"type":"thing"}`, "thing"},
		{`{"type":"string","minLength":3}`, "minLength"}, {`[1]`, "object"}, {`{`, "object"}, {`{"required":["a"]}`, `"a"`}, {`{"enum":[]}`, "enum"},
		{`{"items":{"items":{"$ref":"#"}}}`, "schema.items.items"}, {`{"type":"string","enum":[1]}`, "no value"},
		{strings.Repeat(`{"items":`, 40) + "{}" + strings.Repeat("}", 40), "deeper"}, {strings.Repeat(" ", 70000) + `{}` + strings.Repeat(`"`, 70000), "bytes"},
	} {
		_, err := v.constraint([]byte(c.schema))
		require.ErrorIs(t, err, ErrSchema, c.schema)
		require.ErrorContains(t, err, c.word)
	}
	_, err := NewJSON(nil, nil)
	require.Error(t, err)
	small, err := tokenizer.New(tokenizer.Spec{Model: "gpt2", Pre: "gpt-2", Tokens: []string{"a", "b"}, BOS: -1, EOS: -1, UNK: -1, PAD: -1})
	require.NoError(t, err)
	_, err = NewJSON(small, nil)
	require.ErrorContains(t, err, "without the byte")
}

// FuzzJSONStep: what the automaton takes for whole is JSON, and from any state that it
// reaches its own way to the end leads to one.
func FuzzJSONStep(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e-3,"\u00e9é",{"b":null}],"c":true}`, `{ "a" : 1}`, `{"a":-0.1E+12,`, `{}`, `{"x`, "{\"\xf0\x9f", `{"a":[[[`} {
		f.Add(s)
	}
	root, _, err := compileSchema(nil)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, text string) {
		s := jsonState{mode: atValue, node: root}
		for i := range len(text) {
			next, ok := s.step(text[i])
			if !ok {
				text = text[:i]
				break
			}
			s = next
		}
		out := []byte(text)
		for n := s.end(); s.mode != atEnd; n-- {
			if s.lexemeEnded() {
				s = s.after()
			}
			c := s.closing()
			var ok bool
			s, ok = s.step(c)
			require.True(t, ok && n > 0)
			out = append(out, c)
		}
		var x map[string]any
		require.NoError(t, json.Unmarshal(out, &x), "%q", out)
	})
}

func BenchmarkJSONMask(b *testing.B) {
	g, err := loader.Open(testenv.Model(b))
	require.NoError(b, err)
	require.NoError(b, g.Close())
	b.Run("vocabulary", func(b *testing.B) {
		for b.Loop() {
			_, err := newJSONVocabulary(g.Tokenizer)
			require.NoError(b, err)
		}
	})
	v, err := newJSONVocabulary(g.Tokenizer)
	require.NoError(b, err)
	for _, text := range []string{"", `{"a`, `{"a":`, `{"a":[1`} {
		con, err := v.constraint(nil)
		require.NoError(b, err)
		c := con.(*jsonText)
		c.state, _ = c.state.run(text)
		logits := make([]float32, v.size)
		b.Run("compute "+text, func(b *testing.B) {
			for b.Loop() {
				c.g.compute(c.state, math.MaxInt)
			}
		})
		b.Run("kept "+text, func(b *testing.B) {
			for b.Loop() {
				c.Mask(logits)
			}
		})
		c.left = c.state.end() + 2
		b.Run("ending "+text, func(b *testing.B) {
			for b.Loop() {
				c.Mask(logits)
			}
		})
	}
}

// FuzzJSONSchema: any bytes are a schema whose shortest text is JSON, or an error.
func FuzzJSONSchema(f *testing.F) {
	for _, s := range []string{personSchema, `{"$ref":"#/$defs/a","$defs":{"a":{"anyOf":[{"const":"x"},{"type":"null"}]}}}`, `{"enum":[1,12,"a"]}`, `{"additionalProperties":{"type":"integer"}}`, `[]`, `{"type":["object","array"],"items":true}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, schema string) {
		root, grow, err := compileSchema([]byte(schema))
		if err != nil {
			require.ErrorIs(t, err, ErrSchema)
			return
		}
		require.Positive(t, grow)
		s := jsonState{mode: atValue, node: root}
		end := s.end()
		var text []byte
		for s.mode != atEnd {
			if s.lexemeEnded() {
				s = s.after()
				continue
			}
			c := s.closing()
			var ok bool
			s, ok = s.step(c)
			require.True(t, ok)
			text = append(text, c)
		}
		require.Len(t, text, end)
		require.Equal(t, root.min, end, "what least says")
		require.True(t, json.Valid(text), "%q", text)
	})
}
