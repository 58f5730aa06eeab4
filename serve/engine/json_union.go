package engine

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// definitions collects what $ref may name: parts of $defs, or definitions, at the top.
func (c *schemaCompiler) definitions(schema []byte) error {
	var top map[string]json.RawMessage
	if json.Unmarshal(schema, &top) != nil {
		return nil // compile says it better
	}
	c.defs = map[string]json.RawMessage{}
	for _, k := range []string{"$defs", "definitions"} {
		var defs map[string]json.RawMessage
		if top[k] != nil && json.Unmarshal(top[k], &defs) != nil {
			return bad("schema", "%s: want an object", k)
		}
		for name, raw := range defs {
			c.defs["#/"+k+"/"+name] = raw
		}
	}
	return nil
}

// other compiles a schema that says what it is by other schemas; nil: it does not.
func (c *schemaCompiler) other(s map[string]json.RawMessage, at string, depth int) (*jsonNode, error) {
	var word string
	for _, k := range []string{"$ref", "anyOf", "oneOf", "allOf"} {
		if s[k] == nil {
			continue
		}
		if word != "" {
			return nil, bad(at, "both %s and %s", word, k)
		}
		word = k
	}
	if word == "" {
		return nil, nil
	}
	for k := range s {
		if k != word && k != "$defs" && k != "definitions" && !slices.Contains(schemaNotes, k) {
			return nil, bad(at, "%s beside %.80q", word, k)
		}
	}
	if word == "$ref" {
		var name string
		if err := json.Unmarshal(s[word], &name); err != nil || c.defs[name] == nil {
			return nil, bad(at, "$ref: want one of the schema's own definitions, got %.80s", s[word])
		}
		// Of a schema that contains itself the depth makes an end.
		return c.compile(c.defs[name], name, depth+1)
	}
	var parts []json.RawMessage
	if err := json.Unmarshal(s[word], &parts); err != nil || len(parts) == 0 || len(parts) > 16 {
		return nil, bad(at, "%s: want a list of 1..16 schemas", word)
	}
	if word == "allOf" && len(parts) > 1 {
		return nil, bad(at, "allOf of more than one schema is not supported")
	}
	var nodes []*jsonNode
	for i, p := range parts {
		n, err := c.compile(p, fmt.Sprintf("%s.%s[%d]", at, word, i), depth+1)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	if len(nodes) == 1 {
		return nodes[0], nil
	}
	return c.union(nodes, at+"."+word)
}

// union is a node for any of several, whose first byte must tell them apart; words
// may be any.
func (c *schemaCompiler) union(nodes []*jsonNode, at string) (*jsonNode, error) {
	u := c.node(0)
	words := map[string]bool{}
	for _, n := range nodes {
		if n.enum != nil {
			for _, w := range n.enum.words {
				words[w] = true
			}
			continue
		}
		k := n.kinds
		if k&kindNumber != 0 {
			k |= kindInteger
		}
		if u.kinds&k != 0 {
			return nil, bad(at, "two alternatives of one type are not supported")
		}
		u.kinds |= k
		if k&kindObject != 0 {
			u.keys, u.open, u.required = n.keys, n.open, n.required
		}
		if k&kindArray != 0 {
			u.items = n.items
		}
	}
	if len(words) > 0 {
		// Words that come in no other way join those that do.
		for kind, w := range map[jsonKind][]string{kindNull: jsonNull.words, kindBool: jsonBools.words} {
			if u.kinds&kind != 0 {
				u.kinds &^= kind
				for _, x := range w {
					words[x] = true
				}
			}
		}
		if u.kinds != 0 {
			return nil, bad(at, "enum beside a type other than null and boolean is not supported")
		}
		u.kinds = kindAny
		u.enum = c.words(slices.Sorted(maps.Keys(words)))
		u.least = u.enum.shortest()
		u.min = len(u.least)
		return u, nil
	}
	if u.kinds&kindNumber != 0 { // the wider of the two
		u.kinds &^= kindInteger
	}
	c.least(u)
	return u, nil
}
