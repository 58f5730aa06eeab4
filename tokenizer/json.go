package tokenizer

import (
	"fmt"
	"strconv"

	"github.com/sparserun/sparserun/strictjson"
)

const (
	maxJSONDepth = 64
	maxJSONNodes = 1 << 16 // values outside the vocabulary
)

// newJSON reads a tokenizer's file. Strings without escapes stay parts of it.
func newJSON(data []byte) (*strictjson.Reader, error) {
	return strictjson.New(string(data), strictjson.Options{Depth: maxJSONDepth, Nodes: maxJSONNodes,
		Keys: func(int) int { return maxJSONNodes },
		Wrap: func(e *strictjson.Error) error { return fmt.Errorf("%w: %w", e, ErrFormat) }})
}

// readID reads a token id.
func readID(r *strictjson.Reader) (int, error) {
	n, err := r.Uint()
	if err == nil && n >= maxTokens {
		err = fmt.Errorf("want a token id below %d, got %d: %w", maxTokens, n, ErrFormat)
	}
	return n, err
}

// readTree reads a value of bounded size: nil, bool, float64, string, []any or node.
func readTree(r *strictjson.Reader) (any, error) {
	return strictjson.Tree(r, func() (node, func(string, any)) {
		n := node{}
		return n, func(key string, v any) { n[key] = v }
	}, func(text string) (any, error) {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			err = r.Fail("a number of 64 bits before")
		}
		return f, err
	})
}

// node is a JSON object. Its methods return the zero value for what is absent
// or of another type.
type node map[string]any

func (n node) str(key string) string { s, _ := n[key].(string); return s }
func (n node) list(key string) []any { l, _ := n[key].([]any); return l }
func (n node) node(key string) node  { m, _ := n[key].(node); return m }

func (n node) bool(key string, absent bool) bool {
	if b, ok := n[key].(bool); ok {
		return b
	}
	return absent
}

func (n node) int(key string) int {
	f, _ := n[key].(float64)
	if f != float64(int(f)) {
		return -1
	}
	return int(f)
}
