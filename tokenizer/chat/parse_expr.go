package chat

import (
	"slices"
	"strconv"
)

// Expressions.
type (
	expr interface{ isExpr() }

	constExpr struct{ v any }
	nameExpr  struct{ name string }
	listExpr  struct{ items []expr }
	dictExpr  struct{ keys, values []expr }
	attrExpr  struct {
		of   expr
		name string
	}
	indexExpr struct{ of, index expr }
	sliceExpr struct{ of, from, to, step expr } // nil: left out
	callExpr  struct {
		f      expr
		args   []expr
		kwName []string
		kw     []expr
	}
	// filterExpr and testExpr call a named function with of before the args.
	filterExpr struct {
		of   expr
		name string
		call *callExpr
	}
	testExpr struct {
		of   expr
		name string
		args []expr
	}
	unaryExpr struct {
		op string
		e  expr
	}
	binaryExpr struct {
		op   string
		l, r expr
	}
	compareExpr struct {
		first expr
		ops   []string
		rest  []expr
	}
	condExpr struct{ cond, then, alt expr } // alt nil: undefined
)

func (constExpr) isExpr()    {}
func (nameExpr) isExpr()     {}
func (*listExpr) isExpr()    {}
func (*dictExpr) isExpr()    {}
func (*attrExpr) isExpr()    {}
func (*indexExpr) isExpr()   {}
func (*sliceExpr) isExpr()   {}
func (*callExpr) isExpr()    {}
func (*filterExpr) isExpr()  {}
func (*testExpr) isExpr()    {}
func (*unaryExpr) isExpr()   {}
func (*binaryExpr) isExpr()  {}
func (*compareExpr) isExpr() {}
func (*condExpr) isExpr()    {}

var constants = map[string]any{"true": true, "True": true, "false": false, "False": false, "none": nil, "None": nil}

var reserved = map[string]bool{
	"true": true, "True": true, "false": true, "False": true, "none": true, "None": true,
	"and": true, "or": true, "not": true, "in": true, "is": true, "if": true, "else": true,
}

// tuple reads "e" or "e, e", which is a list.
func (p *parser) tuple() (expr, error) {
	e, err := p.expr()
	if err != nil || p.peek() != (token{opToken, ","}) {
		return e, err
	}
	items := []expr{e}
	for p.accept(",") && p.peek().kind != endToken && p.peek() != (token{opToken, ")"}) {
		if e, err = p.expr(); err != nil {
			return nil, err
		}
		items = append(items, e)
	}
	return &listExpr{items}, nil
}

// expr reads "or if or else expr".
func (p *parser) expr() (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	e, err := p.or()
	if err != nil || !p.acceptName("if") {
		return e, err
	}
	c := &condExpr{then: e}
	if c.cond, err = p.or(); err != nil {
		return nil, err
	}
	if p.acceptName("else") {
		c.alt, err = p.expr()
	}
	return c, err
}

func (p *parser) or() (expr, error)  { return p.logic("or", p.and) }
func (p *parser) and() (expr, error) { return p.logic("and", p.not) }

func (p *parser) logic(op string, operand func() (expr, error)) (expr, error) {
	return p.chain(func() (string, bool) { return op, p.acceptName(op) }, operand)
}

// chain reads left-associative operands; each level of the tree counts as
// nesting, for it is nesting to the evaluator.
func (p *parser) chain(op func() (string, bool), operand func() (expr, error)) (expr, error) {
	l, err := operand()
	levels := 0
	defer func() { p.depth -= levels }()
	for err == nil {
		o, ok := op()
		if !ok {
			return l, nil
		}
		levels++
		if err := p.enter(); err != nil {
			return nil, err
		}
		var r expr
		r, err = operand()
		l = &binaryExpr{o, l, r}
	}
	return nil, err
}

func (p *parser) not() (expr, error) {
	if !p.acceptName("not") {
		return p.compare()
	}
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	e, err := p.not()
	return &unaryExpr{"not", e}, err
}

func (p *parser) compare() (expr, error) {
	first, err := p.sum()
	if err != nil {
		return nil, err
	}
	c := &compareExpr{first: first}
	for {
		op := ""
		switch t := p.peek(); {
		case t.kind == opToken && slices.Contains([]string{"==", "!=", "<", ">", "<=", ">="}, t.text):
			op = p.next().text
		case p.acceptName("in"):
			op = "in"
		case t == (token{nameToken, "not"}) && p.tok+1 < len(p.toks) && p.toks[p.tok+1] == (token{nameToken, "in"}):
			p.tok += 2
			op = "not in"
		case len(c.ops) == 0:
			return first, nil
		default:
			return c, nil
		}
		e, err := p.sum()
		if err != nil {
			return nil, err
		}
		c.ops, c.rest = append(c.ops, op), append(c.rest, e)
	}
}

func (p *parser) oneOf(ops ...string) func() (string, bool) {
	return func() (string, bool) {
		for _, op := range ops {
			if p.accept(op) {
				return op, true
			}
		}
		return "", false
	}
}

func (p *parser) sum() (expr, error)     { return p.chain(p.oneOf("+", "-"), p.concat) }
func (p *parser) concat() (expr, error)  { return p.chain(p.oneOf("~"), p.product) }
func (p *parser) product() (expr, error) { return p.chain(p.oneOf("*", "//", "/", "%"), p.power) }
func (p *parser) power() (expr, error) {
	return p.chain(p.oneOf("**"), func() (expr, error) { return p.unary(true) })
}

func (p *parser) unary(filters bool) (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	var e expr
	var err error
	if op, ok := p.oneOf("-", "+")(); ok {
		e, err = p.unary(false)
		e = &unaryExpr{op, e}
	} else {
		e, err = p.primary()
	}
	if err != nil {
		return nil, err
	}
	if e, err = p.postfix(e); err == nil && filters {
		e, err = p.filters(e)
	}
	return e, err
}

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
