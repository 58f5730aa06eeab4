package ptxsim

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Limits that keep a hostile text from taking the machine's memory.
const (
	maxSource    = 64 << 20
	maxVarBytes  = 64 << 20
	maxTotalVars = 256 << 20
	maxRegs      = 1 << 20
	maxScopes    = 1 << 16
	maxNesting   = 64
)

type regRange struct {
	prefix string
	count  int
	typ    dtype
}

// scope is one { } of a function: names declared in it shadow outer ones.
type scope struct {
	id, parent int
	regs       map[string]dtype
	ranges     []regRange
	index      map[string]int // registers used so far: place in fn.regs
	vars       map[string]*variable
}

type parser struct {
	lex      lexer
	tok      token
	prevEnd  int
	prog     *program
	fn       *function
	scopes   []*scope       // open ones, innermost last
	parents  []int          // parent of each scope id of fn
	labels   map[string]int // "scope/name" -> body index
	varBytes int
}

// parse reads PTX text. Errors name the line and wrap ErrSyntax.
func parse(src string) (*program, error) {
	if len(src) > maxSource {
		return nil, fmt.Errorf("text of %d bytes, at most %d: %w", len(src), maxSource, ErrSyntax)
	}
	src = strings.TrimRight(src, "\x00")
	p := &parser{lex: lexer{src: src, line: 1}, prog: &program{globals: map[string]*variable{}}}
	if err := p.advance(); err != nil {
		return nil, err
	}
	for p.tok.kind != tokEOF {
		if err := p.topLevel(); err != nil {
			return nil, err
		}
	}
	if p.prog.version == "" || p.prog.target == "" {
		return nil, fmt.Errorf("no .version or no .target: %w", ErrSyntax)
	}
	return p.prog, nil
}

func (p *parser) errorf(format string, a ...any) error {
	return fmt.Errorf("line %d: %s: %w", p.tok.line, fmt.Sprintf(format, a...), ErrSyntax)
}

func (p *parser) advance() error {
	p.prevEnd = p.tok.end
	t, err := p.lex.next()
	p.tok = t
	return err
}

func (p *parser) is(text string) bool {
	return p.tok.text == text && p.tok.kind != tokString && p.tok.kind != tokEOF
}

// accept takes the token if it is text.
func (p *parser) accept(text string) (bool, error) {
	if !p.is(text) {
		return false, nil
	}
	return true, p.advance()
}

func (p *parser) expect(text string) error {
	if !p.is(text) {
		return p.errorf("want %q, got %q", text, p.tok.text)
	}
	return p.advance()
}

func (p *parser) ident() (string, error) {
	if p.tok.kind != tokIdent {
		return "", p.errorf("want a name, got %q", p.tok.text)
	}
	s := p.tok.text
	return s, p.advance()
}

// intLit takes an optionally signed integer literal.
func (p *parser) intLit() (int64, error) {
	neg, err := p.accept("-")
	if err != nil {
		return 0, err
	}
	if p.tok.kind != tokNumber {
		return 0, p.errorf("want an integer, got %q", p.tok.text)
	}
	bits, fp, err := parseNumber(p.tok.text)
	if err != nil || fp != 0 {
		return 0, p.errorf("bad integer %q", p.tok.text)
	}
	v := int64(bits)
	if neg {
		v = -v
	}
	return v, p.advance()
}

// parseNumber returns the bits of a literal and how it was written: 0 for an
// integer, 'f' for 0fXXXXXXXX (32 bits), 'd' for 0d or a decimal (64 bits).
func parseNumber(s string) (bits uint64, fp byte, err error) {
	if len(s) == 10 && (s[:2] == "0f" || s[:2] == "0F") {
		bits, err = strconv.ParseUint(s[2:], 16, 32)
		return bits, 'f', err
	}
	if len(s) == 18 && (s[:2] == "0d" || s[:2] == "0D") {
		bits, err = strconv.ParseUint(s[2:], 16, 64)
		return bits, 'd', err
	}
	if strings.Contains(s, ".") {
		f, err := strconv.ParseFloat(s, 64)
		return math.Float64bits(f), 'd', err
	}
	s = strings.TrimSuffix(s, "U")
	if len(s) > 1 && s[0] == '0' && isDigit(s[1]) { // C octal
		bits, err = strconv.ParseUint(s, 8, 64)
		return bits, 0, err
	}
	bits, err = strconv.ParseUint(s, 0, 64)
	return bits, 0, err
}

// linkage holds the prefixes of a declaration that matter here.
type linkage struct {
	extern, visible bool
	pos             int
}

func (p *parser) topLevel() error {
	if p.tok.kind != tokDot {
		return p.errorf("want a directive, got %q", p.tok.text)
	}
	lk := linkage{pos: p.tok.pos}
	for {
		switch p.tok.text {
		case ".visible", ".weak", ".common":
			lk.visible = true
		case ".extern":
			lk.extern = true
		default:
			return p.directive(lk)
		}
		if err := p.advance(); err != nil {
			return err
		}
	}
}

func (p *parser) directive(lk linkage) error {
	switch p.tok.text {
	case ".version":
		if err := p.advance(); err != nil {
			return err
		}
		p.prog.version = p.tok.text
		if p.tok.kind != tokNumber {
			return p.errorf("bad .version")
		}
		return p.advance()
	case ".target":
		if err := p.advance(); err != nil {
			return err
		}
		var err error
		if p.prog.target, err = p.ident(); err != nil {
			return err
		}
		for p.is(",") {
			if err := p.advance(); err != nil {
				return err
			}
			if _, err := p.ident(); err != nil {
				return err
			}
		}
		return nil
	case ".address_size":
		if err := p.advance(); err != nil {
			return err
		}
		n, err := p.intLit()
		if err == nil && n != 64 {
			return p.errorf(".address_size %d, only 64 is supported", n)
		}
		return err
	case ".entry", ".func":
		return p.function(lk)
	case ".global", ".const", ".shared":
		vs, err := p.varDecl(lk)
		if err != nil {
			return err
		}
		for _, v := range vs {
			if _, dup := p.prog.globals[v.name]; dup {
				return p.errorf("%s declared twice", v.name)
			}
			v.pos, v.end = lk.pos, p.prevEnd
			p.prog.globals[v.name] = v
			p.prog.vars = append(p.prog.vars, v)
		}
		return nil
	case ".file", ".loc", ".section", ".pragma", ".alias", ".callprototype":
		return p.skipDirective()
	}
	return p.errorf("unknown directive %q", p.tok.text)
}

// skipDirective passes a directive that carries no meaning for execution.
func (p *parser) skipDirective() error {
	name, line := p.tok.text, p.tok.line
	if err := p.advance(); err != nil {
		return err
	}
	if name == ".section" {
		for p.tok.kind != tokEOF && !p.is("{") {
			if err := p.advance(); err != nil {
				return err
			}
		}
		for p.tok.kind != tokEOF && !p.is("}") {
			if err := p.advance(); err != nil {
				return err
			}
		}
		return p.expect("}")
	}
	// .file and .loc end with their line, the others with a semicolon.
	byLine := name == ".file" || name == ".loc"
	for p.tok.kind != tokEOF {
		if byLine && p.tok.line != line {
			return nil
		}
		if p.is(";") {
			return p.advance()
		}
		if err := p.advance(); err != nil {
			return err
		}
	}
	return nil
}

// function parses .entry or .func with its parameters and, unless it is only
// declared, its body.
func (p *parser) function(lk linkage) error {
	fn := &function{entry: p.is(".entry"), line: p.tok.line, pos: lk.pos, tables: map[string][]string{}, dynAlign: 16}
	if err := p.advance(); err != nil {
		return err
	}
	p.fn, p.parents, p.labels = fn, nil, map[string]int{}
	p.scopes = nil
	if err := p.pushScope(); err != nil {
		return err
	}
	if p.is("(") { // return values of a .func
		if _, err := p.paramList(); err != nil {
			return err
		}
	}
	var err error
	if fn.name, err = p.ident(); err != nil {
		return err
	}
	if p.is("(") {
		if fn.params, err = p.paramList(); err != nil {
			return err
		}
	}
	for p.tok.kind == tokDot {
		if err := p.perfDirective(); err != nil {
			return err
		}
	}
	if p.is(";") {
		return p.advance()
	}
	for _, f := range p.prog.funcs {
		if f.name == fn.name {
			return p.errorf("%s defined twice", fn.name)
		}
	}
	if err := p.block(0); err != nil {
		return err
	}
	fn.end = p.prevEnd
	if err := p.resolveLabels(); err != nil {
		return err
	}
	if err := fn.layout(); err != nil {
		return fmt.Errorf("%s: %w", fn.name, err)
	}
	p.prog.funcs = append(p.prog.funcs, fn)
	p.fn, p.scopes = nil, nil
	return nil
}

func (p *parser) perfDirective() error {
	name := p.tok.text
	switch name {
	case ".pragma":
		return p.skipDirective()
	case ".noreturn", ".explicitcluster":
		return p.advance()
	case ".maxntid", ".reqntid", ".minnctapersm", ".maxnctapersm", ".maxnreg", ".reqnctapercluster",
		".maxclusterrank", ".blocksareclusters":
	default:
		return p.errorf("unknown directive %q", name)
	}
	if err := p.advance(); err != nil {
		return err
	}
	total := int64(1)
	for p.tok.kind == tokNumber {
		n, err := p.intLit()
		if err != nil {
			return err
		}
		if n < 0 || n > 1<<20 {
			return p.errorf("%s %d out of range", name, n)
		}
		total *= n
		if total > 1<<40 {
			return p.errorf("%s out of range", name)
		}
		if ok, err := p.accept(","); err != nil || !ok {
			if err != nil {
				return err
			}
			break
		}
	}
	if name == ".maxntid" || name == ".reqntid" {
		p.fn.maxThreads, p.fn.reqThreads = int(total), name == ".reqntid"
	}
	return nil
}

func (p *parser) paramList() ([]*variable, error) {
	if err := p.expect("("); err != nil {
		return nil, err
	}
	var out []*variable
	for !p.is(")") {
		v, err := p.oneVar(spParam, linkage{})
		if err != nil {
			return nil, err
		}
		out = append(out, v)
		p.scopes[0].vars[v.name] = v
		if ok, err := p.accept(","); err != nil || !ok {
			if err != nil {
				return nil, err
			}
			break
		}
	}
	return out, p.expect(")")
}

func (p *parser) pushScope() error {
	if len(p.parents) >= maxScopes || len(p.scopes) >= maxNesting {
		return p.errorf("too many scopes")
	}
	parent := -1
	if len(p.scopes) > 0 {
		parent = p.scopes[len(p.scopes)-1].id
	}
	s := &scope{id: len(p.parents), parent: parent, regs: map[string]dtype{}, index: map[string]int{}, vars: map[string]*variable{}}
	p.parents = append(p.parents, parent)
	p.scopes = append(p.scopes, s)
	return nil
}
