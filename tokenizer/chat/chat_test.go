package chat_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/tokenizer/chat"
)

// golden is what testdata/make_chat.py wrote: null is a template that failed.
type golden struct {
	Templates     map[string]string
	Conversations [][]map[string]json.RawMessage
	Vars          []map[string]json.RawMessage
	Rows          [][4]json.RawMessage
	Snippets      [][2]*string
}

func readGolden(t testing.TB) golden {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "chat.json"))
	require.NoError(t, err)
	var g golden
	require.NoError(t, json.Unmarshal(b, &g))
	require.NotEmpty(t, g.Rows)
	require.NotEmpty(t, g.Snippets)
	return g
}

func conversation(t testing.TB, raw []map[string]json.RawMessage) []chat.Message {
	var list []chat.Message
	for _, m := range raw {
		msg := chat.Message{Extra: map[string]any{}}
		for key, v := range m {
			switch key {
			case "role":
				require.NoError(t, json.Unmarshal(v, &msg.Role))
			case "content":
				require.NoError(t, json.Unmarshal(v, &msg.Content))
			default:
				msg.Extra[key] = v
			}
		}
		list = append(list, msg)
	}
	return list
}

func options(t testing.TB, raw map[string]json.RawMessage) chat.Options {
	o := chat.Options{BOS: "<s>", EOS: "</s>", Vars: map[string]any{}}
	for key, v := range raw {
		if key == "add_generation_prompt" {
			require.NoError(t, json.Unmarshal(v, &o.AddGenerationPrompt))
		} else {
			o.Vars[key] = v
		}
	}
	return o
}

// The texts of Jinja 2 itself, set up as transformers does.
func TestTemplates(t *testing.T) {
	g := readGolden(t)
	for _, row := range g.Rows {
		var name string
		var c, v int
		var want *string
		for i, p := range []any{&name, &c, &v, &want} {
			require.NoError(t, json.Unmarshal(row[i], p))
		}
		tmpl, err := chat.Parse(g.Templates[name])
		require.NoError(t, err, name)
		got, err := tmpl.Render(conversation(t, g.Conversations[c]), options(t, g.Vars[v]))
		if want == nil {
			require.Error(t, err, "%s on %d, %d", name, c, v)
			require.True(t, errors.Is(err, chat.ErrRaised) || errors.Is(err, chat.ErrRender), "%v", err)
			continue
		}
		require.NoError(t, err, "%s on %d, %d", name, c, v)
		require.Equal(t, *want, got, "%s on %d, %d", name, c, v)
	}
}

func TestLanguage(t *testing.T) {
	g := readGolden(t)
	for _, s := range g.Snippets {
		tmpl, err := chat.Parse(*s[0])
		got := ""
		if err == nil {
			got, err = tmpl.Render(conversation(t, g.Conversations[1]), options(t, g.Vars[0]))
		}
		if s[1] == nil {
			require.Error(t, err, *s[0])
			typed(t, err)
			continue
		}
		require.NoError(t, err, *s[0])
		require.Equal(t, *s[1], got, *s[0])
	}
}

func typed(t *testing.T, err error) {
	for _, e := range []error{chat.ErrSyntax, chat.ErrRender, chat.ErrRaised, chat.ErrLimit} {
		if errors.Is(err, e) {
			return
		}
	}
	t.Fatalf("error without a type: %v", err)
}

func TestErrors(t *testing.T) {
	for src, want := range map[string]error{
		"{{ raise_exception('no ' ~ 1) }}": chat.ErrRaised,
		"{{ strftime_now('%d') }}":         chat.ErrRender,
		"{% include 'x' %}":                chat.ErrSyntax,
		"{% macro f() %}{% endmacro %}":    chat.ErrSyntax,
		"{{ 'a' | nope }}":                 chat.ErrSyntax,
		"{{ messages }}{{ range }}":        chat.ErrRender,
		"{{ 9223372036854775807 + 1 }}":    chat.ErrRender,
		"{{ 99999999999999999999 }}":       chat.ErrSyntax,
	} {
		tmpl, err := chat.Parse(src)
		if err == nil {
			_, err = tmpl.Render([]chat.Message{{Role: "user"}}, chat.Options{})
		}
		require.ErrorIs(t, err, want, src)
		require.NotContains(t, err.Error(), "\n", src)
	}
	tmpl, err := chat.Parse("{{ raise_exception('only users, please') }}")
	require.NoError(t, err)
	_, err = tmpl.Render(nil, chat.Options{})
	require.ErrorContains(t, err, "only users, please")

	for _, v := range []any{struct{}{}, json.RawMessage("{"), json.RawMessage("1 2"), json.RawMessage(strings.Repeat("[", 200)), []any{make(chan int)}} {
		_, err := tmpl.Render(nil, chat.Options{Vars: map[string]any{"x": v}})
		require.Error(t, err)
		typed(t, err)
		require.NotErrorIs(t, err, chat.ErrRaised)
	}
}

// Case 49 of the list of hostile inputs: templates that never end, nest or grow
// without end. Each stops by its limits, in bounded memory.
func TestHostile(t *testing.T) {
	loop := func(body string) string {
		return "{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}" + body + "{% endfor %}{% endfor %}{% endfor %}"
	}
	for name, src := range map[string]string{
		"loops":          loop(""),
		"output":         loop("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
		"doubling":       "{% set ns = namespace(s='x') %}" + loop("{% set ns.s = ns.s ~ ns.s %}"),
		"doubling lists": "{% set ns = namespace(s=[1]) %}" + loop("{% set ns.s = ns.s + ns.s %}"),
		"doubling json":  "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}",
		"doubling keys":  "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = {'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk': ns.s, 'b': ns.s} %}{% endfor %}{{ ns.s }}",
		"doubling equal": "{% set ns = namespace(s='x', t='x') %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}{{ ns.s == ns.t }}",
		"deep value":     "{% set ns = namespace(s=1) %}{% for i in range(100000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}",
		"deep json":      "{% set ns = namespace(s=1) %}{% for i in range(100000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s | tojson }}",
		"deep in":        "{% set ns = namespace(s=1) %}{% for i in range(100000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s in ns.s }}",
		"repeat":         "{{ 'x' * 1000000000000 }}",
		"repeat twice":   "{{ ('x' * 1000000) * 1000000 }}",
		"replace":        "{{ ('x' * 10000) | replace('x', 'y' * 100000) }}",
		"replace empty":  "{{ ('x' * 1000000) | replace('', 'y' * 1000) }}",
		"range":          "{{ range(100000000000) }}",
		"range far":      "{{ range(-9223372036854775807, 9223372036854775807) }}",
		"join":           "{{ range(1000000) | join('x' * 1000000) }}",
		"split":          "{% for i in range(1000) %}{% set x = ('x' * 1000000).split('x') %}{% endfor %}",
		"find":           loop("{{ ('x' * 1000) in ('y' * 1000000) }}"),
		"upper":          "{% set s = 'x' * 1000000 %}{% for i in range(100000) %}{% set t = s | upper %}{% endfor %}",
		"slices":         "{% set s = 'x' * 1000000 %}{% for i in range(100000) %}{% set t = s[1:] %}{% endfor %}",
	} {
		tmpl, err := chat.Parse(src)
		require.NoError(t, err, name)
		var before, after goruntime.MemStats
		goruntime.ReadMemStats(&before)
		start := time.Now()
		_, err = tmpl.Render(nil, chat.Options{})
		goruntime.ReadMemStats(&after)
		t.Logf("%-16s %8d kB %v %v", name, (after.TotalAlloc-before.TotalAlloc)>>10, time.Since(start), err)
		require.ErrorIs(t, err, chat.ErrLimit, name)
		require.Less(t, time.Since(start), 20*time.Second, name)
		// All that was ever allocated, garbage included: a text of 64 MB that
		// grows by quarters makes five times that.
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(5*64<<20), name)
	}

	// Depth is what counts, not length.
	_, err := chat.Parse(strings.Repeat("{% if a.b.c|trim|upper is none %}{{ -a[1](2) ~ b + 'c' }}{% elif not a %}{% endif %}", 2000))
	require.NoError(t, err)

	for name, src := range map[string]string{
		"parentheses": "{{ " + strings.Repeat("(", 100000),
		"brackets":    "{{ " + strings.Repeat("[", 100000),
		"minus":       "{{ " + strings.Repeat("-", 100000) + "1 }}",
		"not":         "{{ " + strings.Repeat("not ", 100000) + "1 }}",
		"sum":         "{{ 1" + strings.Repeat(" + 1", 100000) + " }}",
		"attributes":  "{{ a" + strings.Repeat(".a", 100000) + " }}",
		"filters":     "{{ a" + strings.Repeat("|trim", 100000) + " }}",
		"tests":       "{{ a" + strings.Repeat(" is none", 100000) + " }}",
		"ifs":         strings.Repeat("{% if true %}", 50000),
		"elifs":       "{% if true %}" + strings.Repeat("{% elif true %}", 50000) + "{% endif %}",
		"inline ifs":  "{{ 1" + strings.Repeat(" if 1 else 1", 50000) + " }}",
		"fors":        strings.Repeat("{% for a in b %}", 50000),
		"huge":        strings.Repeat("x", 2<<20),
	} {
		_, err := chat.Parse(src)
		require.ErrorIs(t, err, chat.ErrSyntax, name)
	}
}

func TestContext(t *testing.T) {
	tmpl, err := chat.Parse("{% for a in range(1000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = tmpl.Render(nil, chat.Options{Context: ctx})
	require.ErrorIs(t, err, chat.ErrLimit)
	require.ErrorIs(t, err, context.Canceled)
	_, err = tmpl.Render(nil, chat.Options{Limits: chat.Limits{Time: time.Nanosecond}})
	require.ErrorIs(t, err, chat.ErrLimit)
	_, err = tmpl.Render(nil, chat.Options{Limits: chat.Limits{Steps: 100}})
	require.ErrorIs(t, err, chat.ErrLimit)
}

func FuzzTemplate(f *testing.F) {
	g := readGolden(f)
	for _, src := range g.Templates {
		f.Add(src, "user", "Hi")
	}
	for _, s := range g.Snippets {
		f.Add(*s[0], "assistant", " x ")
	}
	f.Fuzz(func(t *testing.T, src, role, content string) {
		tmpl, err := chat.Parse(src)
		if err != nil {
			typed(t, err)
			return
		}
		_, err = tmpl.Render([]chat.Message{{Role: role, Content: content}, {Role: "user", Content: "b"}},
			chat.Options{BOS: "<s>", Limits: chat.Limits{Steps: 20000, Bytes: 1 << 20}})
		if err != nil {
			typed(t, err)
		}
	})
}
