package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sort"
	"strings"
)

// jsonNode is what a value must be.
type jsonNode struct {
	id       uint16
	kinds    jsonKind
	enum     *jsonWords // if not nil, one of these
	keys     *jsonWords // of an object with properties: there are no others
	open     *jsonNode  // of an object without: what its values must be
	required uint64     // by index into keys
	items    *jsonNode
	least    string // the shortest value, or its beginning
	min      int    // bytes of the shortest value
}

type jsonKind uint8

const (
	kindObject jsonKind = 1 << iota
	kindArray
	kindString
	kindNumber
	kindInteger
	kindBool
	kindNull
	kindAny = kindObject | kindArray | kindString | kindNumber | kindBool | kindNull
)

var jsonKinds = map[string]jsonKind{"object": kindObject, "array": kindArray, "string": kindString, "number": kindNumber, "integer": kindInteger, "boolean": kindBool, "null": kindNull}

// Bounds of schemas.
const (
	schemaBytes = 64 << 10
	schemaDepth = 16
	schemaNodes = 1000
	schemaKeys  = 63 // of an object
	schemaEnum  = 1000
)

// schemaNotes are keywords that restrict nothing.
var schemaNotes = []string{"title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated", "readOnly", "writeOnly"}

// compileSchema turns a schema into nodes. grow is the most that one byte of a text
// can add to its shortest end.
func compileSchema(schema []byte) (root *jsonNode, grow int, err error) {
	c := &schemaCompiler{}
	c.any = c.node(kindAny)
	c.any.items, c.any.open = c.any, c.any
	c.any.least, c.any.min = "0", 1
	if s := bytes.TrimSpace(schema); len(s) == 0 || string(s) == "null" {
		root = c.node(kindObject)
		root.open, root.least, root.min = c.any, "{}", 2
	} else if len(s) > schemaBytes {
		return nil, 0, fmt.Errorf("engine: schema of %d bytes, at most %d: %w", len(s), schemaBytes, ErrSchema)
	} else {
		if err := c.definitions(s); err != nil {
			return nil, 0, err
		}
		if root, err = c.compile(s, "schema", 0); err != nil {
			return nil, 0, err
		}
	}
	// A byte opens at most one thing, whose shortest end may have a key and a value.
	grow = 8
	for _, n := range c.nodes {
		g := n.min + 4
		if n.keys != nil {
			for i, w := range n.keys.words {
				g = max(g, n.min+len(w)+4+n.keys.nodes[i].min)
			}
		}
		if n.enum != nil {
			for _, w := range n.enum.words {
				g = max(g, len(w))
			}
		}
		grow = max(grow, g)
	}
	return root, grow, nil
}

type schemaCompiler struct {
	any   *jsonNode
	nodes []*jsonNode
	lists uint16
	defs  map[string]json.RawMessage // what $ref may name, by its whole path
}

func (c *schemaCompiler) node(k jsonKind) *jsonNode {
	n := &jsonNode{id: uint16(len(c.nodes) + 1), kinds: k}
	c.nodes = append(c.nodes, n)
	return n
}

func (c *schemaCompiler) words(w []string) *jsonWords {
	c.lists++
	return &jsonWords{id: 2 + c.lists, words: w}
}

func bad(at, format string, args ...any) error {
	return fmt.Errorf("engine: %.200s: %s: %w", at, fmt.Sprintf(format, args...), ErrSchema)
}

func (c *schemaCompiler) compile(raw json.RawMessage, at string, depth int) (*jsonNode, error) {
	if depth > schemaDepth || len(c.nodes) > schemaNodes {
		return nil, bad(at, "deeper than %d or more than %d parts", schemaDepth, schemaNodes)
	}
	if t := string(bytes.TrimSpace(raw)); t == "true" {
		return c.any, nil
	}
	var s map[string]json.RawMessage
	if err := json.Unmarshal(raw, &s); err != nil || s == nil {
		return nil, bad(at, "want an object")
	}
	for k := range s {
		switch k {
		case "type", "properties", "required", "additionalProperties", "enum", "const", "items", "$ref", "anyOf", "oneOf", "allOf":
		case "$defs", "definitions":
			if depth > 0 {
				return nil, bad(at, "keyword %.80q is only read at the top", k)
			}
		default:
			if !slices.Contains(schemaNotes, k) {
				return nil, bad(at, "keyword %.80q is not supported", k)
			}
		}
	}
	if n, err := c.other(s, at, depth); n != nil || err != nil {
		return n, err
	}
	kinds, err := c.kinds(s, at)
	if err != nil {
		return nil, err
	}
	n := c.node(kinds)
	if s["enum"] != nil || s["const"] != nil {
		return n, c.enum(n, s, at)
	}
	if kinds&kindArray != 0 {
		n.items = c.any
		if r := s["items"]; r != nil {
			if n.items, err = c.compile(r, at+".items", depth+1); err != nil {
				return nil, err
			}
		}
	}
	if kinds&kindObject != 0 {
		if err := c.object(n, s, at, depth); err != nil {
			return nil, err
		}
	}
	c.least(n)
	return n, nil
}

// kinds reads type; without one, properties and items tell.
func (c *schemaCompiler) kinds(s map[string]json.RawMessage, at string) (jsonKind, error) {
	raw := s["type"]
	if raw == nil {
		switch {
		case s["properties"] != nil || s["required"] != nil || s["additionalProperties"] != nil:
			return kindObject, nil
		case s["items"] != nil:
			return kindArray, nil
		}
		return kindAny, nil
	}
	var names []string
	if err := json.Unmarshal(raw, &names); err != nil {
		var one string
		if err := json.Unmarshal(raw, &one); err != nil {
			return 0, bad(at, "type: want a string or a list of them")
		}
		names = []string{one}
	}
	var k jsonKind
	for _, name := range names {
		kind, ok := jsonKinds[name]
		if !ok {
			return 0, bad(at, "type: %.80q", name)
		}
		k |= kind
	}
	if k == 0 {
		return 0, bad(at, "type: none")
	}
	return k, nil
}

func (c *schemaCompiler) enum(n *jsonNode, s map[string]json.RawMessage, at string) error {
	var values []json.RawMessage
	if r := s["enum"]; r != nil {
		if err := json.Unmarshal(r, &values); err != nil || len(values) == 0 || len(values) > schemaEnum {
			return bad(at, "enum: want a list of 1..%d values", schemaEnum)
		}
	}
	if r := s["const"]; r != nil {
		if s["enum"] != nil {
			return bad(at, "both enum and const")
		}
		values = []json.RawMessage{r}
	}
	words := map[string]bool{}
	for _, v := range values {
		w, k, err := literal(v)
		if err != nil {
			return bad(at, "enum: %v", err)
		}
		if len(w) > 1<<12 {
			return bad(at, "enum: a value of %d bytes", len(w))
		}
		if k&n.kinds != 0 || k == kindInteger && n.kinds&kindNumber != 0 {
			words[w] = true
		}
	}
	if len(words) == 0 {
		return bad(at, "enum: no value is of the type")
	}
	n.enum = c.words(slices.Sorted(maps.Keys(words)))
	n.least = n.enum.shortest()
	n.min = len(n.least)
	return nil
}

// literal writes a value as texts must have it.
func literal(v json.RawMessage) (string, jsonKind, error) {
	var x any
	d := json.NewDecoder(bytes.NewReader(v))
	d.UseNumber()
	if err := d.Decode(&x); err != nil {
		return "", 0, err
	}
	if _, err := d.Token(); err != io.EOF {
		return "", 0, fmt.Errorf("more than a value")
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(x); err != nil {
		return "", 0, err
	}
	w := strings.TrimSuffix(out.String(), "\n")
	switch t := x.(type) {
	case nil:
		return w, kindNull, nil
	case bool:
		return w, kindBool, nil
	case string:
		return w, kindString, nil
	case json.Number:
		if strings.ContainsAny(t.String(), ".eE") {
			return w, kindNumber, nil
		}
		return w, kindInteger, nil
	case []any:
		return w, kindArray, nil
	}
	return w, kindObject, nil
}

func (c *schemaCompiler) object(n *jsonNode, s map[string]json.RawMessage, at string, depth int) error {
	n.open = c.any
	var props map[string]json.RawMessage
	if r := s["properties"]; r != nil {
		if err := json.Unmarshal(r, &props); err != nil {
			return bad(at, "properties: want an object")
		}
	}
	if len(props) > schemaKeys {
		return bad(at, "properties: %d, at most %d", len(props), schemaKeys)
	}
	if r := s["additionalProperties"]; r != nil {
		switch string(bytes.TrimSpace(r)) {
		case "true", "false": // an object with properties has no others anyway
			if string(bytes.TrimSpace(r)) == "false" && len(props) == 0 {
				n.open, n.keys = nil, c.words(nil)
			}
		default:
			if len(props) > 0 {
				return bad(at, "additionalProperties beside properties: want true or false")
			}
			var err error
			if n.open, err = c.compile(r, at+".additionalProperties", depth+1); err != nil {
				return err
			}
		}
	}
	if len(props) > 0 {
		byWord := map[string]string{}
		for name := range props {
			quoted, _ := json.Marshal(name)
			w, _, err := literal(quoted)
			if err != nil || len(w) > 1<<12 {
				return bad(at, "properties: a name of %d bytes", len(name))
			}
			byWord[w] = name
		}
		n.open, n.keys = nil, c.words(slices.Sorted(maps.Keys(byWord)))
		for _, w := range n.keys.words {
			v, err := c.compile(props[byWord[w]], at+"."+byWord[w], depth+1)
			if err != nil {
				return err
			}
			n.keys.nodes = append(n.keys.nodes, v)
		}
	}
	var required []string
	if r := s["required"]; r != nil {
		if err := json.Unmarshal(r, &required); err != nil {
			return bad(at, "required: want a list of names")
		}
	}
	for _, name := range required {
		quoted, _ := json.Marshal(name)
		w, _, err := literal(quoted)
		i := -1
		if err == nil && n.keys != nil {
			if k := sort.SearchStrings(n.keys.words, w); k < len(n.keys.words) && n.keys.words[k] == w {
				i = k
			}
		}
		if i < 0 {
			return bad(at, "required: %.80q is not among the properties", name)
		}
		n.required |= 1 << i
	}
	return nil
}

// least finds the shortest value.
func (c *schemaCompiler) least(n *jsonNode) {
	try := func(text string, size int) {
		if n.min == 0 || size < n.min {
			n.least, n.min = text, size
		}
	}
	if n.kinds&(kindNumber|kindInteger) != 0 {
		try("0", 1)
	}
	if n.kinds&kindString != 0 {
		try(`""`, 2)
	}
	if n.kinds&kindArray != 0 {
		try("[]", 2)
	}
	if n.kinds&kindNull != 0 {
		try("null", 4)
	}
	if n.kinds&kindBool != 0 {
		try("true", 4)
	}
	if n.kinds&kindObject != 0 {
		size, fields := 2, 0
		if n.keys != nil {
			for i, w := range n.keys.words {
				if n.required>>i&1 == 1 {
					size += len(w) + 1 + n.keys.nodes[i].min
					fields++
				}
			}
		}
		try("{", size+max(0, fields-1))
	}
}
