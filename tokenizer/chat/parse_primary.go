package chat

import (
	"strconv"
)

func (p *parser) primary() (expr, error) {
	t := p.next()
	switch t.kind {
	case nameToken:
		if v, ok := constants[t.text]; ok {
			return constExpr{v}, nil
		}
		if reserved[t.text] {
			return nil, p.fail("unexpected %s", t.text)
		}
		return nameExpr{t.text}, nil
	case stringToken:
		s := t.text
		for p.peek().kind == stringToken { // neighbours are joined
			s += p.next().text
		}
		return constExpr{s}, nil
	case intToken:
		n, err := strconv.ParseInt(t.text, 10, 64)
		if err != nil {
			return nil, p.fail("integer %.40s out of range", t.text)
		}
		return constExpr{n}, nil
	case floatToken:
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil {
			return nil, p.fail("number %.40s out of range", t.text)
		}
		return constExpr{f}, nil
	}
	switch t {
	case token{opToken, "("}:
		if p.accept(")") {
			return &listExpr{}, nil
		}
		e, err := p.tuple()
		if err == nil && !p.accept(")") {
			err = p.fail("want )")
		}
		return e, err
	case token{opToken, "["}:
		l := &listExpr{}
		err := p.items("]", func() error {
			e, err := p.expr()
			l.items = append(l.items, e)
			return err
		})
		return l, err
	case token{opToken, "{"}:
		d := &dictExpr{}
		err := p.items("}", func() error {
			k, err := p.expr()
			if err != nil {
				return err
			}
			if !p.accept(":") {
				return p.fail("want :")
			}
			v, err := p.expr()
			d.keys, d.values = append(d.keys, k), append(d.values, v)
			return err
		})
		return d, err
	}
	if t.kind == endToken {
		return nil, p.fail("want an expression")
	}
	return nil, p.fail("unexpected %.40q", t.text)
}

// items reads what is separated by commas up to end.
func (p *parser) items(end string, item func() error) error {
	for first := true; !p.accept(end); first = false {
		if !first && !p.accept(",") {
			return p.fail("want , or %s", end)
		}
		if !first && p.accept(end) {
			return nil
		}
		if err := item(); err != nil {
			return err
		}
	}
	return nil
}

// postfix reads attributes, subscripts and calls.
func (p *parser) postfix(e expr) (expr, error) {
	levels := 0
	defer func() { p.depth -= levels }()
	for {
		var err error
		switch {
		case p.accept("."):
			t := p.next()
			switch t.kind {
			case nameToken:
				e = &attrExpr{e, t.text}
			case intToken:
				n, _ := strconv.ParseInt(t.text, 10, 64)
				e = &indexExpr{e, constExpr{n}}
			default:
				return nil, p.fail("want an attribute")
			}
		case p.accept("["):
			e, err = p.subscript(e)
		case p.accept("("):
			e, err = p.call(e)
		default:
			return e, nil
		}
		levels++
		if err == nil {
			err = p.enter()
		}
		if err != nil {
			return nil, err
		}
	}
}

func (p *parser) subscript(of expr) (expr, error) {
	var parts [3]expr
	colons := 0
	for !p.accept("]") {
		if p.accept(":") {
			if colons++; colons > 2 {
				return nil, p.fail("want a slice of at most three parts")
			}
			continue
		}
		if parts[colons] != nil {
			return nil, p.fail("want ]")
		}
		e, err := p.expr()
		if err != nil {
			return nil, err
		}
		parts[colons] = e
	}
	switch {
	case colons > 0:
		return &sliceExpr{of, parts[0], parts[1], parts[2]}, nil
	case parts[0] == nil:
		return nil, p.fail("want an index")
	}
	return &indexExpr{of, parts[0]}, nil
}

// call reads the arguments of a call whose ( has been read.
func (p *parser) call(f expr) (*callExpr, error) {
	c := &callExpr{f: f}
	err := p.items(")", func() error {
		name := ""
		if t := p.peek(); t.kind == nameToken && p.tok+1 < len(p.toks) && p.toks[p.tok+1] == (token{opToken, "="}) {
			name = t.text
			p.tok += 2
		}
		e, err := p.expr()
		if err != nil {
			return err
		}
		if name != "" {
			c.kwName, c.kw = append(c.kwName, name), append(c.kw, e)
		} else if len(c.kw) > 0 {
			return p.fail("want named arguments last")
		} else {
			c.args = append(c.args, e)
		}
		return nil
	})
	return c, err
}

// filters reads "| filter", "is test" and calls of their results.
func (p *parser) filters(e expr) (expr, error) {
	levels := 0
	defer func() { p.depth -= levels }()
	for {
		var err error
		switch {
		case p.accept("|"):
			t := p.next()
			if t.kind != nameToken || filters[t.text] == nil {
				return nil, p.fail("filter %.40q is not supported", t.text)
			}
			f := &filterExpr{of: e, name: t.text, call: &callExpr{}}
			if p.accept("(") {
				f.call, err = p.call(nil)
			}
			e = f
		case p.acceptName("is"):
			e, err = p.test(e)
		default:
			return e, nil
		}
		levels++
		if err == nil {
			err = p.enter()
		}
		if err != nil {
			return nil, err
		}
	}
}

func (p *parser) test(of expr) (expr, error) {
	negate := p.acceptName("not")
	name := p.next()
	if name.kind != nameToken || tests[name.text].f == nil {
		return nil, p.fail("test %.40q is not supported", name.text)
	}
	t := &testExpr{of: of, name: name.text}
	if p.accept("(") {
		c, err := p.call(nil)
		if err != nil {
			return nil, err
		}
		t.args = c.args
	} else if tests[name.text].args > 0 {
		e, err := p.primary()
		if err == nil {
			e, err = p.postfix(e)
		}
		if err != nil {
			return nil, err
		}
		t.args = []expr{e}
	}
	if len(t.args) != tests[name.text].args {
		return nil, p.fail("test %s: want %d arguments, got %d", t.name, tests[name.text].args, len(t.args))
	}
	if negate {
		return &unaryExpr{"not", t}, nil
	}
	return t, nil
}
