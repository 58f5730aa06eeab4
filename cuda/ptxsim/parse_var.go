package ptxsim

import (
	"encoding/binary"
	"fmt"
	"math"
)

// varDecl parses ".space .align N .type a, b[4] = {...};".
func (p *parser) varDecl(lk linkage) ([]*variable, error) {
	sp, ok := spaceByName[p.tok.text[1:]]
	if !ok {
		return nil, p.errorf("unknown state space %q", p.tok.text)
	}
	v, err := p.oneVar(sp, lk)
	if err != nil {
		return nil, err
	}
	out := []*variable{v}
	for p.is(",") {
		if err := p.advance(); err != nil {
			return nil, err
		}
		next := &variable{space: sp, typ: v.typ, align: v.align, extern: v.extern}
		if err := p.declarator(next); err != nil {
			return nil, err
		}
		out = append(out, next)
	}
	return out, p.expect(";")
}

// oneVar parses a space (if it stands there), alignment, type and declarator.
func (p *parser) oneVar(sp space, lk linkage) (*variable, error) {
	v := &variable{space: sp, extern: lk.extern}
	for p.tok.kind == tokDot {
		name := p.tok.text[1:]
		if t, ok := dtypeByName[name]; ok {
			v.typ = t
		} else if _, ok := spaceByName[name]; ok {
			// said already by the caller
		} else if name == "align" {
			if err := p.advance(); err != nil {
				return nil, err
			}
			n, err := p.intLit()
			if err != nil {
				return nil, err
			}
			if n < 1 || n > 1<<16 || n&(n-1) != 0 {
				return nil, p.errorf("alignment %d is no power of two", n)
			}
			v.align = int(n)
			continue
		} else if name == "ptr" || name == "unified" || name == "attribute" || name == "managed" {
			// .ptr .global .align 16 on parameters: a promise, checked at the access instead
		} else {
			return nil, p.errorf("unknown attribute %q of a variable", p.tok.text)
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
	}
	if v.typ == tNone || v.typ.size() == 0 {
		return nil, p.errorf("variable without a storable type")
	}
	return v, p.declarator(v)
}

// declarator parses a name, its bounds and its initialiser.
func (p *parser) declarator(v *variable) (err error) {
	v.line = p.tok.line
	if v.name, err = p.ident(); err != nil {
		return err
	}
	count, open := int64(1), false
	for p.is("[") {
		if err := p.advance(); err != nil {
			return err
		}
		if p.is("]") {
			open = true
		} else {
			n, err := p.intLit()
			if err != nil {
				return err
			}
			if n < 0 || n > maxVarBytes || count*max(n, 1) > maxVarBytes {
				return p.errorf("array of %s too large", v.name)
			}
			count *= n
		}
		if err := p.expect("]"); err != nil {
			return err
		}
	}
	if !open {
		v.size = int(count) * v.typ.size()
	}
	if v.align == 0 {
		v.align = v.typ.size()
	}
	if v.size > maxVarBytes {
		return p.errorf("%s has %d bytes, at most %d", v.name, v.size, maxVarBytes)
	}
	if p.varBytes += v.size; p.varBytes > maxTotalVars {
		return p.errorf("variables take more than %d bytes", maxTotalVars)
	}
	if !p.is("=") {
		return nil
	}
	if err := p.advance(); err != nil {
		return err
	}
	if err := p.initialiser(v, 0); err != nil {
		return err
	}
	if open {
		v.size = len(v.init)
	}
	if len(v.init) > v.size {
		return p.errorf("%s: initialiser of %d bytes for %d", v.name, len(v.init), v.size)
	}
	return nil
}

func (p *parser) initialiser(v *variable, depth int) error {
	if depth > 8 {
		return p.errorf("initialiser nested too deeply")
	}
	if !p.is("{") {
		return p.initValue(v)
	}
	if err := p.advance(); err != nil {
		return err
	}
	for !p.is("}") {
		if err := p.initialiser(v, depth+1); err != nil {
			return err
		}
		if ok, err := p.accept(","); err != nil || !ok {
			if err != nil {
				return err
			}
			break
		}
	}
	return p.expect("}")
}

func (p *parser) initValue(v *variable) error {
	if len(v.init) > maxVarBytes {
		return p.errorf("initialiser too long")
	}
	if p.tok.kind == tokIdent { // name, name+off or generic(name)
		name := p.tok.text
		if err := p.advance(); err != nil {
			return err
		}
		if name == "generic" {
			if err := p.expect("("); err != nil {
				return err
			}
			var err error
			if name, err = p.ident(); err != nil {
				return err
			}
			if err := p.expect(")"); err != nil {
				return err
			}
		}
		if v.typ.size() != 8 {
			return p.errorf("address of %s in a type of %d bytes", name, v.typ.size())
		}
		var off int64
		if p.is("+") {
			if err := p.advance(); err != nil {
				return err
			}
			var err error
			if off, err = p.intLit(); err != nil {
				return err
			}
		}
		v.relocs = append(v.relocs, reloc{len(v.init), name})
		v.init = binary.LittleEndian.AppendUint64(v.init, uint64(off))
		return nil
	}
	neg, err := p.accept("-")
	if err != nil {
		return err
	}
	if p.tok.kind != tokNumber {
		return p.errorf("want a constant, got %q", p.tok.text)
	}
	bits, fp, err := parseNumber(p.tok.text)
	if err != nil {
		return p.errorf("bad constant %q", p.tok.text)
	}
	if neg && fp == 0 {
		bits = -bits
	}
	bits = literalBits(bits, fp, neg, v.typ)
	var raw [8]byte
	binary.LittleEndian.PutUint64(raw[:], bits)
	v.init = append(v.init, raw[:min(v.typ.size(), 8)]...)
	return p.advance()
}

// literalBits gives the bits of a literal as type t wants them.
func literalBits(bits uint64, fp byte, neg bool, t dtype) uint64 {
	switch fp {
	case 'f':
		f := math.Float32frombits(uint32(bits))
		if neg {
			f = -f
		}
		if t == tF64 {
			return math.Float64bits(float64(f))
		}
		return uint64(math.Float32bits(f))
	case 'd':
		f := math.Float64frombits(bits)
		if neg {
			f = -f
		}
		if t != tF64 && t.size() == 4 {
			return uint64(math.Float32bits(float32(f)))
		}
		return math.Float64bits(f)
	}
	if t == tF64 {
		return math.Float64bits(float64(int64(bits)))
	}
	if t == tF32 {
		return uint64(math.Float32bits(float32(int64(bits))))
	}
	return bits
}

// layout gives every parameter, shared and local variable its offset.
func (f *function) layout() error {
	place := func(vs []*variable, sp space, limit int) (int, error) {
		off := 0
		for _, v := range vs {
			if v.space != sp || v.extern {
				continue
			}
			off = (off + v.align - 1) &^ (v.align - 1)
			v.off = off
			off += v.size
			if off > limit {
				return 0, fmt.Errorf("line %d: %s memory exceeds %d bytes: %w", v.line, sp, limit, ErrSyntax)
			}
		}
		return off, nil
	}
	var err error
	if f.paramSize, err = place(f.params, spParam, 32764); err != nil {
		return err
	}
	if f.localSize, err = place(f.vars, spLocal, 512<<10); err != nil {
		return err
	}
	if f.sharedFixed, err = place(f.vars, spShared, 256<<10); err != nil {
		return err
	}
	return nil
}
