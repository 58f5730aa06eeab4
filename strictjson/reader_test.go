package strictjson

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func tree(r *Reader) (any, error) {
	return Tree(r, func() (map[string]any, func(string, any)) {
		m := map[string]any{}
		return m, func(k string, v any) { m[k] = v }
	}, func(s string) (any, error) { return strconv.ParseFloat(s, 64) })
}

func parse(text string, o Options) (any, error) {
	r, err := New(text, o)
	if err != nil {
		return nil, err
	}
	v, err := tree(r)
	if err != nil {
		return nil, err
	}
	return v, r.End()
}

func TestStrict(t *testing.T) {
	for _, c := range []struct {
		text string
		kind Kind
		at   int
	}{
		{``, Syntax, 0}, {` `, Syntax, 1}, {`{`, Syntax, 1}, {`{"a"}`, Syntax, 4}, {`{"a":1,}`, Syntax, 7}, {`[1,]`, Syntax, 3}, {`[,1]`, Syntax, 1}, {`[1 2]`, Syntax, 3},
		{`{"a":1,"a":2}`, Duplicate, 7}, {`{"a":1,"\u0061":2}`, Duplicate, 7}, {`{"x":{"a":1,"b":2,"a":3}}`, Duplicate, 18},
		{`01`, Syntax, 1}, {`-`, Syntax, 0}, {`1.`, Syntax, 0}, {`.5`, Syntax, 0}, {`1e`, Syntax, 0}, {`+1`, Syntax, 0}, {`NaN`, Syntax, 0}, {`tru`, Syntax, 0}, {`nulll`, Syntax, 4},
		{`"a`, Syntax, 2}, {"\"\n\"", Syntax, 1}, {`"\x"`, Syntax, 1}, {`"\u12g4"`, Syntax, 1}, {`"\ud800"`, Syntax, 1}, {`"\ud800\u0041"`, Syntax, 1}, {`"\udc00"`, Syntax, 1}, {`"\`, Syntax, 2},
		{"\"\xff\"", Syntax, 1}, {"\xef\xbb\xbf{}", Syntax, 0}, {`{} {}`, Syntax, 3},
		{strings.Repeat("[", 9), Limit, 8}, {`{"a":0,"b":0,"c":0,"d":0,"e":0}`, Limit, 25}, {`[1,2,3,4,5,6,7,8,9,10]`, Limit, 19},
	} {
		_, err := parse(c.text, Options{Keys: func(int) int { return 4 }, Nodes: 10, Depth: 8})
		var e *Error
		require.ErrorAs(t, err, &e, "%q", c.text)
		require.Equal(t, c.kind, e.Kind, "%q: %v", c.text, err)
		if c.text != `01` { // a whole value, then one more
			require.Equal(t, c.at, e.Offset, "%q: %v", c.text, err)
		}
		require.NotContains(t, err.Error(), "\n")
	}
}

// TestNothing: an end where a value must be is not called a missing number.
func TestNothing(t *testing.T) {
	for _, text := range []string{"", " ", `{"a":`, "[1,"} {
		_, err := parse(text, Options{})
		require.ErrorContains(t, err, "want a value, got the end", text)
	}
}

func TestValues(t *testing.T) {
	v, err := parse(" {\"a\" : [1, -2.5e3, true, false, null, \"x\\n\\u00e9\\ud83d\\ude00\\/\"], \"\":{}, \"b\":[ ]}\t", Options{})
	require.NoError(t, err)
	require.Equal(t, map[string]any{"a": []any{1.0, -2500.0, true, false, nil, "x\né😀/"}, "": map[string]any{}, "b": []any{}}, v)
}

func TestReaders(t *testing.T) {
	r, err := New(`[7, 1.0, -1, 18446744073709551616, null, {"a": [1, "x", {}]}, 3]`, Options{Clone: true})
	require.NoError(t, err)
	n, err := r.Count()
	require.NoError(t, err)
	require.Equal(t, 7, n)
	var last int
	require.NoError(t, r.Array(func(i int) (err error) {
		switch i {
		case 1, 2, 3:
			_, err = r.Uint()
			require.Error(t, err)
			_, err = r.Float() // and the reader stands before it still
		case 4:
			var null bool
			null, err = r.Null()
			require.True(t, null)
		case 5:
			err = r.Skip(true)
		default:
			last, err = r.Uint()
		}
		return err
	}))
	require.Equal(t, 3, last)
	require.NoError(t, r.End())

	// Keys are compared inside of what is skipped, where the caller wants it.
	for _, unique := range []bool{true, false} {
		r, err := New(`{"a":{"b":1,"b":2}}`, Options{})
		require.NoError(t, err)
		require.Equal(t, unique, r.Skip(unique) != nil)
	}
	wrapped := errors.New("mine")
	_, err = parse("[", Options{Wrap: func(*Error) error { return wrapped }})
	require.Equal(t, wrapped, err)
}

// FuzzReader holds the reader to encoding/json: it accepts nothing that is not JSON,
// agrees on the value, and refuses only what it says it refuses.
func FuzzReader(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e-3,"\u00e9\\",true,null]}`, `{"a":1,"a":2}`, `"\ud83d\ude00"`, "[[[[", `-0.0E+1 `, `"` + "\xc3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		o := Options{Depth: 1 << 30, Nodes: 1 << 30, Keys: func(int) int { return 1 << 30 }}
		v, err := parse(text, o)
		var want any
		std := json.Unmarshal([]byte(text), &want)
		var e *Error
		switch {
		case err == nil:
			if std != nil {
				t.Fatalf("accepted, encoding/json says %v", std)
			}
			require.Equal(t, want, v)
		case std == nil && utf8.ValidString(text) && errors.As(err, &e):
			if e.Kind != Duplicate && !strings.Contains(text, `\u`) {
				t.Fatalf("refused: %v", err)
			}
		}
	})
}
