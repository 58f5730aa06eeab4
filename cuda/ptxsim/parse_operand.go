package ptxsim

import (
	"fmt"
	"strconv"
)

// operand parses one argument of an instruction.
func (p *parser) operand(depth int) (operand, error) {
	if depth > 4 {
		return operand{}, p.errorf("operand nested too deeply")
	}
	switch {
	case p.is("{"), p.is("("):
		return p.operandList(depth)
	case p.is("["):
		return p.address()
	case p.is("!"):
		if err := p.advance(); err != nil {
			return operand{}, err
		}
		a, err := p.operand(depth + 1)
		a.neg = true
		return a, err
	case p.is("-"), p.tok.kind == tokNumber:
		return p.literal()
	case p.tok.kind == tokIdent:
		a, err := p.name()
		if err != nil {
			return a, err
		}
		if p.is("|") {
			if err := p.advance(); err != nil {
				return a, err
			}
			b, err := p.name()
			return operand{kind: argPair, list: []operand{a, b}}, err
		}
		if p.is("+") && a.kind == argVar {
			if err := p.advance(); err != nil {
				return a, err
			}
			a.off, err = p.intLit()
		}
		return a, err
	}
	return operand{}, p.errorf("unexpected %q among the operands", p.tok.text)
}

func (p *parser) operandList(depth int) (operand, error) {
	a, closing := operand{kind: argVec}, "}"
	if p.is("(") {
		a.kind, closing = argList, ")"
	}
	if err := p.advance(); err != nil {
		return a, err
	}
	for !p.is(closing) {
		e, err := p.operand(depth + 1)
		if err != nil {
			return a, err
		}
		if len(a.list) >= 64 {
			return a, p.errorf("more than 64 elements in a vector")
		}
		a.list = append(a.list, e)
		if ok, err := p.accept(","); err != nil {
			return a, err
		} else if !ok {
			break
		}
	}
	return a, p.expect(closing)
}

func (p *parser) literal() (operand, error) {
	neg, err := p.accept("-")
	if err != nil {
		return operand{}, err
	}
	bits, fp, err := parseNumber(p.tok.text)
	if p.tok.kind != tokNumber || err != nil {
		return operand{}, p.errorf("bad literal %q", p.tok.text)
	}
	if neg && fp == 0 {
		bits = -bits
	}
	return operand{kind: argImm, bits: bits, fp: fp, neg: neg && fp != 0}, p.advance()
}

// name parses a register, a special register, a variable or a label.
func (p *parser) name() (operand, error) {
	s := p.tok.text
	end := p.tok.end
	if _, err := p.ident(); err != nil {
		return operand{}, err
	}
	if s == "_" {
		return operand{kind: argSink}, nil
	}
	if s[0] == '%' && p.tok.kind == tokDot && p.tok.pos == end { // %tid.x
		s += p.tok.text
		if err := p.advance(); err != nil {
			return operand{}, err
		}
	}
	if i, ok := p.lookupReg(s); ok {
		return operand{kind: argReg, reg: i, name: s}, nil
	}
	if v := p.lookupVar(s); v != nil {
		return operand{kind: argVar, v: v, name: s}, nil
	}
	if s[0] == '%' || s == "WARP_SZ" {
		return operand{kind: argSpecial, name: s}, nil
	}
	return operand{kind: argLabel, name: s}, nil
}

// address parses [reg], [reg+off], [var+off], [off].
func (p *parser) address() (operand, error) {
	a := operand{kind: argMem}
	if err := p.advance(); err != nil {
		return a, err
	}
	if p.tok.kind == tokIdent {
		b, err := p.name()
		if err != nil {
			return a, err
		}
		switch b.kind {
		case argReg:
			a.reg, a.isReg = b.reg, true
		case argVar:
			a.v = b.v
		default:
			return a, p.errorf("%q is no address", b.name)
		}
		a.name = b.name
		if ok, err := p.accept("+"); err != nil {
			return a, err
		} else if !ok && !p.is("-") {
			return a, p.expect("]")
		}
	}
	var err error
	if a.off, err = p.intLit(); err != nil {
		return a, err
	}
	return a, p.expect("]")
}

// resolveLabels turns the names in branches into indices, from the branch's own
// scope outwards.
func (p *parser) resolveLabels() error {
	find := func(sc int, name string) (int, bool) {
		for ; sc >= 0; sc = p.parents[sc] {
			if i, ok := p.labels[strconv.Itoa(sc)+"/"+name]; ok {
				return i, true
			}
		}
		return 0, false
	}
	for _, st := range p.fn.body {
		var names []string
		for _, a := range st.args {
			if a.kind == argLabel {
				names = append(names, a.name)
			}
		}
		if st.op == "brx" && len(names) == 1 {
			var list []string
			for sc := st.scope; sc >= 0 && list == nil; sc = p.parents[sc] {
				list = p.fn.tables[strconv.Itoa(sc)+"/"+names[0]]
			}
			if list == nil {
				return fmt.Errorf("line %d: no .branchtargets %s: %w", st.line, names[0], ErrSyntax)
			}
			names = list
		}
		if st.op == "call" {
			continue
		}
		for _, n := range names {
			i, ok := find(st.scope, n)
			if !ok {
				return fmt.Errorf("line %d: %s: unknown name %s: %w", st.line, st.opcode(), n, ErrSyntax)
			}
			st.targets = append(st.targets, i)
		}
	}
	return nil
}
