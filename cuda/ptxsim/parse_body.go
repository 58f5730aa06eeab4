package ptxsim

import (
	"strconv"
	"strings"
)

// block parses { declarations, labels, instructions, blocks }.
func (p *parser) block(depth int) error {
	if err := p.expect("{"); err != nil {
		return err
	}
	if depth > 0 {
		if err := p.pushScope(); err != nil {
			return err
		}
	}
	for !p.is("}") {
		if p.tok.kind == tokEOF {
			return p.errorf("%s: body not closed", p.fn.name)
		}
		if err := p.bodyItem(depth); err != nil {
			return err
		}
	}
	p.scopes = p.scopes[:len(p.scopes)-1]
	return p.advance()
}

func (p *parser) bodyItem(depth int) error {
	switch {
	case p.is("{"):
		return p.block(depth + 1)
	case p.is(";"):
		return p.advance()
	case p.tok.kind == tokDot:
		return p.bodyDirective()
	case p.is("@"), p.tok.kind == tokIdent:
		return p.labelOrInstr()
	}
	return p.errorf("unexpected %q", p.tok.text)
}

func (p *parser) bodyDirective() error {
	switch p.tok.text {
	case ".reg":
		return p.regDecl()
	case ".local", ".shared", ".const", ".global", ".param":
		vs, err := p.varDecl(linkage{})
		if err != nil {
			return err
		}
		for _, v := range vs {
			p.scopes[len(p.scopes)-1].vars[v.name] = v
			switch v.space {
			case spLocal, spShared:
				p.fn.vars = append(p.fn.vars, v)
			case spGlobal, spConst:
				if _, dup := p.prog.globals[v.name]; dup {
					return p.errorf("%s declared twice", v.name)
				}
				p.prog.globals[v.name] = v
				p.prog.vars = append(p.prog.vars, v)
			}
		}
		return nil
	case ".loc", ".file", ".pragma", ".section", ".callprototype":
		return p.skipDirective()
	}
	return p.errorf("unknown directive %q", p.tok.text)
}

// regDecl parses ".reg .b32 %r<12>;" or ".reg .f16 low, high;".
func (p *parser) regDecl() error {
	if err := p.advance(); err != nil {
		return err
	}
	for p.is(".v2") || p.is(".v4") {
		return p.errorf("vector registers are not supported")
	}
	if p.tok.kind != tokDot {
		return p.errorf("register without a type")
	}
	t, ok := dtypeByName[p.tok.text[1:]]
	if !ok {
		return p.errorf("unknown register type %q", p.tok.text)
	}
	if err := p.advance(); err != nil {
		return err
	}
	sc := p.scopes[len(p.scopes)-1]
	for {
		name, err := p.ident()
		if err != nil {
			return err
		}
		if ok, err := p.accept("<"); err != nil {
			return err
		} else if ok {
			n, err := p.intLit()
			if err != nil {
				return err
			}
			if n < 0 || n > maxRegs {
				return p.errorf("%d registers %s, at most %d", n, name, maxRegs)
			}
			sc.ranges = append(sc.ranges, regRange{name, int(n), t})
			if err := p.expect(">"); err != nil {
				return err
			}
		} else {
			sc.regs[name] = t
		}
		if ok, err := p.accept(","); err != nil {
			return err
		} else if !ok {
			break
		}
	}
	return p.expect(";")
}

// lookupReg finds the register that name means here and gives its index in
// fn.regs; registers get an index at first use, so that declaring many costs nothing.
func (p *parser) lookupReg(name string) (int, bool) {
	for i := len(p.scopes) - 1; i >= 0; i-- {
		sc := p.scopes[i]
		if idx, ok := sc.index[name]; ok {
			return idx, true
		}
		t, ok := sc.regs[name]
		if !ok {
			for _, r := range sc.ranges {
				digits, found := strings.CutPrefix(name, r.prefix)
				if !found || digits == "" || len(digits) > 1 && digits[0] == '0' {
					continue
				}
				if n, err := strconv.Atoi(digits); err == nil && n >= 0 && n < r.count {
					t, ok = r.typ, true
					break
				}
			}
		}
		if !ok {
			continue
		}
		idx := len(p.fn.regs)
		p.fn.regs = append(p.fn.regs, register{name, t})
		sc.index[name] = idx
		return idx, true
	}
	return 0, false
}

// ownShared is the function's own copy of a shared variable of the module: nvcc
// leaves one at module scope when several kernels use it, and every kernel that
// does has it in its static shared memory.
func (f *function) ownShared(v *variable) *variable {
	for _, have := range f.vars {
		if have.name == v.name {
			return have
		}
	}
	own := *v
	f.vars = append(f.vars, &own)
	return &own
}

func (p *parser) lookupVar(name string) *variable {
	for i := len(p.scopes) - 1; i >= 0; i-- {
		if v := p.scopes[i].vars[name]; v != nil {
			return v
		}
	}
	v := p.prog.globals[name]
	if v != nil && v.space == spShared && !v.extern && p.fn != nil {
		return p.fn.ownShared(v)
	}
	return v
}

func (p *parser) labelOrInstr() error {
	st := &statement{guard: -1, line: p.tok.line, pos: p.tok.pos}
	if ok, err := p.accept("@"); err != nil {
		return err
	} else if ok {
		if st.guardNeg, err = p.accept("!"); err != nil {
			return err
		}
		name, err := p.ident()
		if err != nil {
			return err
		}
		idx, found := p.lookupReg(name)
		if !found || p.fn.regs[idx].typ != tPred {
			return p.errorf("guard %q is no predicate", name)
		}
		st.guard = idx
	}
	st.line = p.tok.line
	name, err := p.ident()
	if err != nil {
		return err
	}
	if p.is(":") && st.guard < 0 {
		return p.label(name)
	}
	st.op = name
	st.mods = make([]string, 0, 6)
	st.args = make([]operand, 0, 4)
	st.argSpan = make([][2]int, 0, 4)
	for p.tok.kind == tokDot {
		st.mods = append(st.mods, p.tok.text[1:])
		if err := p.advance(); err != nil {
			return err
		}
	}
	for !p.is(";") {
		from := p.tok.pos
		a, err := p.operand(0)
		if err != nil {
			return err
		}
		st.args = append(st.args, a)
		st.argSpan = append(st.argSpan, [2]int{from, p.prevEnd})
		if ok, err := p.accept(","); err != nil {
			return err
		} else if !ok {
			break
		}
	}
	st.end = p.tok.end
	st.scope = p.scopes[len(p.scopes)-1].id
	p.fn.body = append(p.fn.body, st)
	return p.expect(";")
}

func (p *parser) label(name string) error {
	if err := p.advance(); err != nil {
		return err
	}
	key := strconv.Itoa(p.scopes[len(p.scopes)-1].id) + "/" + name
	if p.is(".branchtargets") {
		if err := p.advance(); err != nil {
			return err
		}
		var list []string
		for {
			l, err := p.ident()
			if err != nil {
				return err
			}
			list = append(list, l)
			if ok, err := p.accept(","); err != nil {
				return err
			} else if !ok {
				break
			}
		}
		p.fn.tables[key] = list
		return p.expect(";")
	}
	if _, dup := p.labels[key]; dup {
		return p.errorf("label %s defined twice", name)
	}
	p.labels[key] = len(p.fn.body)
	return nil
}
