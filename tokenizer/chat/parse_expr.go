package chat

import (
	"slices"
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
