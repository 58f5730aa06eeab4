package engine

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"sync"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/tokenizer"
)

// JSON as a Constraint: an automaton over bytes (json_step.go) for a schema
// (json_schema.go) says which bytes may come next, and with that which tokens may,
// all of whose bytes must. The tokens of a state are a bit mask, which is kept: texts
// come back to the same states again and again.
//
// A text ends in time: where the tokens that are left are as few as the bytes that
// the shortest end of the text has, only tokens that leave enough for an end may
// come. A request of fewer tokens than its shortest text ("{}" has two) is cut, and
// is no JSON; its Finish is FinishLength, as is that of no other.

// jsonVocabulary is what a tokenizer's tokens are, for all requests.
type jsonVocabulary struct {
	size    int
	tokens  []jsonToken // that may stand in a text, by their bytes
	bytes   [][]byte    // by id
	plain   []uint64    // mask of tokens that never leave a string
	odd     []jsonToken // all others, by their bytes
	longest int
	eog     []int32

	mu       sync.Mutex
	grammars map[string]*jsonGrammar // by schema
	order    []string
}

type jsonToken struct {
	id    int32
	bytes string
}

const (
	jsonGrammars = 16  // schemas that are kept: with their masks some 25 MB of a vocabulary of 50,000
	jsonMasks    = 256 // masks that are kept of each
)

func newJSONVocabulary(t *tokenizer.Tokenizer) (*jsonVocabulary, error) {
	if t == nil {
		return nil, fmt.Errorf("engine: JSON of a model without a tokenizer: %w", runtime.ErrUnsupported)
	}
	v := &jsonVocabulary{size: t.VocabSize(), eog: t.EOG(), grammars: map[string]*jsonGrammar{}}
	v.bytes = make([][]byte, v.size)
	v.plain = make([]uint64, (v.size+63)/64)
	var single [256]bool
	for id := range int32(v.size) {
		b := t.Token(id)
		if len(b) == 0 || t.Special(id) || t.IsEOG(id) {
			continue
		}
		v.bytes[id] = b
		v.longest = max(v.longest, len(b))
		v.tokens = append(v.tokens, jsonToken{id, string(b)})
		if len(b) == 1 {
			single[b[0]] = true
		}
	}
	for c := range 256 {
		// A text can be ended only where every byte of an end is a token.
		if !single[c] && (c >= ' ' && c < 0x7f || c >= 0x80 && c < 0xc0) {
			return nil, fmt.Errorf("engine: JSON by a vocabulary without the byte %#x: %w", c, runtime.ErrUnsupported)
		}
	}
	sort.Slice(v.tokens, func(i, j int) bool { return v.tokens[i].bytes < v.tokens[j].bytes })
	str := jsonState{mode: inString}
	for _, t := range v.tokens {
		if s, ok := str.run(t.bytes); ok && s == str {
			v.plain[t.id/64] |= 1 << (t.id % 64)
		} else {
			v.odd = append(v.odd, t)
		}
	}
	return v, nil
}

// grammar is the schema's, compiled once.
func (v *jsonVocabulary) grammar(schema []byte) (*jsonGrammar, error) {
	key := string(schema)
	v.mu.Lock()
	g := v.grammars[key]
	v.mu.Unlock()
	if g != nil {
		return g, nil
	}
	root, grow, err := compileSchema(schema)
	if err != nil {
		return nil, err
	}
	g = &jsonGrammar{v: v, root: root, grow: grow * v.longest, masks: map[string][]uint64{}}
	v.mu.Lock()
	defer v.mu.Unlock()
	if old := v.grammars[key]; old != nil {
		return old, nil
	}
	if len(v.order) == jsonGrammars {
		delete(v.grammars, v.order[0])
		v.order = v.order[1:]
	}
	v.grammars[key] = g
	v.order = append(v.order, key)
	return g, nil
}

// jsonGrammar is a schema with the masks of the states that texts came to.
type jsonGrammar struct {
	v    *jsonVocabulary
	root *jsonNode
	grow int // bytes that a token may add to the shortest end, at most

	mu    sync.Mutex
	masks map[string][]uint64
}

// NewJSON makes a Constraint under which a text is one JSON object, or, with a
// schema (null or empty: none), a value of that JSON schema. Of JSON schema it knows
// type, properties, required, additionalProperties, enum, const and items; $ref to the
// schema's own $defs, though not to what contains it; anyOf and oneOf of schemas that
// differ in type; allOf of one. Any other keyword is an error that wraps ErrSchema and
// names it. An object with properties has no others. Engine.JSON shares what it learns of a vocabulary among requests:
// prefer it.
func NewJSON(t *tokenizer.Tokenizer, schema []byte) (Constraint, error) {
	v, err := newJSONVocabulary(t)
	if err != nil {
		return nil, err
	}
	return v.constraint(schema)
}

// JSON is NewJSON for the engine's model.
func (e *Engine) JSON(schema []byte) (Constraint, error) {
	e.vocabulary.Do(func() { e.json, e.jsonErr = newJSONVocabulary(e.Tokenizer()) })
	if e.jsonErr != nil {
		return nil, e.jsonErr
	}
	return e.json.constraint(schema)
}

func (v *jsonVocabulary) constraint(schema []byte) (Constraint, error) {
	g, err := v.grammar(schema)
	if err != nil {
		return nil, err
	}
	return &jsonText{g: g, state: jsonState{mode: atValue, node: g.root}, left: math.MaxInt}, nil
}

// jsonText is one request's Constraint.
type jsonText struct {
	g     *jsonGrammar
	state jsonState
	left  int // tokens that the text may have
	key   []byte
}

var _ Budgeted = (*jsonText)(nil)

// Left implements Budgeted.
func (t *jsonText) Left(tokens int) { t.left = tokens }

// Mask implements Constraint.
func (t *jsonText) Mask(logits []float32) (eog bool) {
	mask := t.mask()
	inf := float32(math.Inf(-1))
	eog = t.state.ended()
	var keep []float32
	if eog {
		for _, id := range t.g.v.eog {
			keep = append(keep, logits[id])
		}
	}
	for w := 0; w*64 < len(logits); w++ {
		row := logits[w*64 : min(w*64+64, len(logits))]
		var m uint64
		if w < len(mask) { // a vocabulary may be padded
			m = mask[w]
		}
		switch m {
		case math.MaxUint64:
		case 0:
			for i := range row {
				row[i] = inf
			}
		default:
			for i := range row {
				if m>>i&1 == 0 {
					row[i] = inf
				}
			}
		}
	}
	for i := range keep {
		logits[t.g.v.eog[i]] = keep[i]
	}
	return eog
}

// mask is the set of tokens that may come next.
func (t *jsonText) mask() []uint64 {
	g := t.g
	end := t.state.end()
	if t.left <= end+g.grow && t.left >= end {
		return g.compute(t.state, t.left-1)
	}
	t.key = t.state.signature(t.key[:0])
	g.mu.Lock()
	m := g.masks[string(t.key)]
	g.mu.Unlock()
	if m != nil {
		return m
	}
	m = g.compute(t.state, math.MaxInt)
	g.mu.Lock()
	if len(g.masks) >= jsonMasks {
		clear(g.masks)
	}
	g.masks[string(t.key)] = m
	g.mu.Unlock()
	return m
}

// compute finds the tokens all of whose bytes may follow s, and after which the text
// can end within so many bytes.
func (g *jsonGrammar) compute(s jsonState, within int) []uint64 {
	m := make([]uint64, len(g.v.plain))
	tokens := g.v.tokens
	ends := map[jsonState]int{}
	fits := func(s jsonState) bool {
		if within == math.MaxInt {
			return true
		}
		n, ok := ends[s]
		if !ok {
			n = s.end()
			ends[s] = n
		}
		return n <= within
	}
	if s.mode == inString {
		tokens = g.v.odd
		if fits(s) {
			copy(m, g.v.plain)
		}
	}
	// Tokens stand in the order of their bytes: what one has in common with the one
	// before is not run again.
	states := make([]jsonState, 1, g.v.longest+1)
	states[0] = s
	last, dead := "", -1 // dead: how many bytes of last may not come
	for _, t := range tokens {
		common := 0
		for common < min(len(last), len(t.bytes)) && last[common] == t.bytes[common] {
			common++
		}
		if dead >= 0 && common >= dead {
			continue
		}
		last, dead = t.bytes, -1
		states = states[:min(common, len(states)-1)+1]
		for i := len(states) - 1; i < len(t.bytes); i++ {
			next, ok := states[i].step(t.bytes[i])
			if !ok {
				dead = i + 1
				break
			}
			states = append(states, next)
		}
		if dead < 0 && fits(states[len(t.bytes)]) {
			m[t.id/64] |= 1 << (t.id % 64)
		}
	}
	return m
}

// Accept implements Constraint.
func (t *jsonText) Accept(id int32) (done bool) {
	if slices.Contains(t.g.v.eog, id) {
		return true
	}
	s, ok := t.state.run(string(t.g.v.bytes[id]))
	if !ok {
		panic(fmt.Sprintf("token %d does not fit", id)) // the engine's draw ignored the mask
	}
	t.state = s
	return s.mode == atEnd
}
