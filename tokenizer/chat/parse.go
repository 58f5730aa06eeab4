package chat

import (
	"fmt"
	"slices"
)

// Statements.
type (
	stmt interface{ isStmt() }

	textStmt   struct{ text string }
	outputStmt struct{ e expr }
	ifStmt     struct {
		cond      expr
		then, alt []stmt
	}
	forStmt struct {
		targets   []string
		over      expr
		filter    expr // nil: none
		body, alt []stmt
	}
	// setStmt assigns value, or the text of body, to names; with attr set, to
	// an attribute of the namespace names[0].
	setStmt struct {
		names []string
		attr  string
		value expr
		body  []stmt
	}
	jumpStmt struct{ brk bool } // break or continue
)

func (textStmt) isStmt()   {}
func (outputStmt) isStmt() {}
func (*ifStmt) isStmt()    {}
func (*forStmt) isStmt()   {}
func (*setStmt) isStmt()   {}
func (jumpStmt) isStmt()   {}

// maxDepth bounds the nesting of statements and expressions, and with it the
// stack of parsing and rendering.
const maxDepth = 100

// parser turns segments into statements. Expressions are read from toks, the
// tokens of one segment.
type parser struct {
	segs  []segment
	seg   int // the next segment
	toks  []token
	tok   int
	line  int
	depth int
	loops int
}

func (p *parser) fail(format string, args ...any) error {
	return fmt.Errorf("line %d: %s: %w", p.line, fmt.Sprintf(format, args...), ErrSyntax)
}

func (p *parser) enter() error {
	if p.depth++; p.depth > maxDepth {
		return p.fail("nesting deeper than %d", maxDepth)
	}
	return nil
}

func (p *parser) template() ([]stmt, error) {
	body, _, err := p.body()
	return body, err
}

// body reads statements up to a block tag whose name is among ends, and returns
// that name with the parser behind it. Without ends it reads to the end.
func (p *parser) body(ends ...string) (body []stmt, end string, err error) {
	if err := p.enter(); err != nil {
		return nil, "", err
	}
	defer func() { p.depth-- }()
	for p.seg < len(p.segs) {
		s := p.segs[p.seg]
		p.seg++
		if s.kind == textSegment {
			body = append(body, textStmt{s.text})
			continue
		}
		p.toks, p.tok, p.line = s.toks, 0, s.line
		if s.kind == outputSegment {
			e, err := p.tuple()
			if err == nil {
				err = p.done()
			}
			if err != nil {
				return nil, "", err
			}
			body = append(body, outputStmt{e})
			continue
		}
		name := p.next()
		if name.kind != nameToken {
			return nil, "", p.fail("want a statement")
		}
		if slices.Contains(ends, name.text) {
			return body, name.text, nil
		}
		st, err := p.statement(name.text)
		if err != nil {
			return nil, "", err
		}
		body = append(body, st...)
	}
	if len(ends) > 0 {
		return nil, "", p.fail("want %s before the end", ends[len(ends)-1])
	}
	return body, "", nil
}

func (p *parser) statement(name string) ([]stmt, error) {
	one := func(s stmt, err error) ([]stmt, error) { return []stmt{s}, err }
	switch name {
	case "if":
		return one(p.ifTag())
	case "for":
		return one(p.forTag())
	case "set":
		return one(p.setTag())
	case "generation": // transformers marks the model's turns with it
		if err := p.done(); err != nil {
			return nil, err
		}
		body, _, err := p.body("endgeneration")
		if err == nil {
			err = p.done()
		}
		return body, err
	case "break", "continue":
		if p.loops == 0 {
			return nil, p.fail("%s outside a loop", name)
		}
		return one(jumpStmt{name == "break"}, p.done())
	}
	return nil, p.fail("statement %.40q is not supported", name)
}

func (p *parser) ifTag() (stmt, error) {
	cond, err := p.tuple()
	if err == nil {
		err = p.done()
	}
	if err != nil {
		return nil, err
	}
	st := &ifStmt{cond: cond}
	var end string
	if st.then, end, err = p.body("elif", "else", "endif"); err != nil {
		return nil, err
	}
	switch end {
	case "elif":
		// An elif is an if in the else branch that shares the endif.
		if err := p.enter(); err != nil {
			return nil, err
		}
		defer func() { p.depth-- }()
		alt, err := p.ifTag()
		st.alt = []stmt{alt}
		return st, err
	case "else":
		if err := p.done(); err != nil {
			return nil, err
		}
		if st.alt, _, err = p.body("endif"); err != nil {
			return nil, err
		}
	}
	return st, p.done()
}

func (p *parser) forTag() (stmt, error) {
	st := &forStmt{}
	var err error
	if st.targets, err = p.targets(); err != nil {
		return nil, err
	}
	if !p.acceptName("in") {
		return nil, p.fail("want in")
	}
	if st.over, err = p.or(); err != nil { // no inline if: that is the filter
		return nil, err
	}
	if p.acceptName("if") {
		if st.filter, err = p.expr(); err != nil {
			return nil, err
		}
	}
	if err := p.done(); err != nil { // "recursive" is not supported
		return nil, err
	}
	p.loops++
	var end string
	st.body, end, err = p.body("else", "endfor")
	p.loops--
	if err == nil && end == "else" {
		if err = p.done(); err == nil {
			st.alt, _, err = p.body("endfor")
		}
	}
	if err != nil {
		return nil, err
	}
	return st, p.done()
}

// targets reads "a" or "a, b" or "(a, b)".
func (p *parser) targets() ([]string, error) {
	paren := p.accept("(")
	var names []string
	for {
		t := p.next()
		if t.kind != nameToken || reserved[t.text] {
			return nil, p.fail("want a name, got %.40q", t.text)
		}
		names = append(names, t.text)
		if !p.accept(",") {
			break
		}
	}
	if paren && !p.accept(")") {
		return nil, p.fail("want )")
	}
	return names, nil
}

func (p *parser) setTag() (stmt, error) {
	st := &setStmt{}
	var err error
	if st.names, err = p.targets(); err != nil {
		return nil, err
	}
	if len(st.names) == 1 && p.accept(".") {
		t := p.next()
		if t.kind != nameToken {
			return nil, p.fail("want an attribute")
		}
		st.attr = t.text
	}
	if p.accept("=") {
		if st.value, err = p.tuple(); err != nil {
			return nil, err
		}
		return st, p.done()
	}
	if len(st.names) != 1 {
		return nil, p.fail("want =")
	}
	if err := p.done(); err != nil {
		return nil, err
	}
	if st.body, _, err = p.body("endset"); err != nil {
		return nil, err
	}
	return st, p.done()
}

// Reading tokens.

func (p *parser) peek() token {
	if p.tok < len(p.toks) {
		return p.toks[p.tok]
	}
	return token{}
}

func (p *parser) next() token {
	t := p.peek()
	p.tok++
	return t
}

func (p *parser) accept(op string) bool {
	if p.peek() == (token{opToken, op}) {
		p.tok++
		return true
	}
	return false
}

func (p *parser) acceptName(name string) bool {
	if p.peek() == (token{nameToken, name}) {
		p.tok++
		return true
	}
	return false
}

func (p *parser) done() error {
	if t := p.peek(); t.kind != endToken {
		return p.fail("unexpected %.40q", t.text)
	}
	return nil
}
