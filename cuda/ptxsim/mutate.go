package ptxsim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Mutant is one small change to a PTX text that a good test must notice.
type Mutant struct {
	Kernel string
	Line   int
	Kind   string // one of MutationKinds
	Detail string // the instruction before and after
	pos    int
	end    int
	text   string
}

// Apply gives the changed text; src is the text Mutants was called with.
func (m Mutant) Apply(src string) string { return src[:m.pos] + m.text + src[m.end:] }

func (m Mutant) String() string {
	return fmt.Sprintf("%s line %d %s: %s", m.Kernel, m.Line, m.Kind, m.Detail)
}

// MutationKinds lists what Mutants tries.
var MutationKinds = []string{
	"fragment", // swap two registers of an operand of mma, or of ldmatrix's result
	"trans",    // drop .trans of ldmatrix
	"wait",     // drop cp.async.wait_group or raise its count; drop commit_group
	"barrier",  // drop bar.sync or bar.warp.sync
	"selector", // another sparsity selector
	"bounds",   // < for <=, and so on; comparison constant off by one
	"addsub",   // add for sub and back; max for min
	"guard",    // drop a predicate; never take a conditional branch
	"offset",   // shared memory offset moved by one element
	"shuffle",  // another shfl mode or lane, or the own value
	"shift",    // shift by one more
}

// mutation proposes replacements for one statement.
type mutation struct {
	kind string
	make func(e *stmtText) []string
}

// stmtText is a statement as text in parts.
type stmtText struct {
	st    *statement
	guard string
	args  []string
}

func textOf(src string, st *statement) *stmtText {
	e := &stmtText{st: st}
	if st.guard >= 0 {
		head := src[st.pos:st.end]
		e.guard = head[:strings.Index(head, st.op)]
		// The predicate's name may hold the opcode's letters: cut at the last blank.
		if i := strings.IndexAny(head, " \t"); i > 0 {
			e.guard = head[:i+1]
		}
	}
	for _, s := range st.argSpan {
		e.args = append(e.args, src[s[0]:s[1]])
	}
	return e
}

// with rebuilds the statement with other suffixes and operands.
func (e *stmtText) with(guard string, op string, mods []string, args []string) string {
	s := guard + op
	if len(mods) > 0 {
		s += "." + strings.Join(mods, ".")
	}
	if len(args) > 0 {
		s += " " + strings.Join(args, ", ")
	}
	return s + ";"
}

func (e *stmtText) withMods(mods []string) string { return e.with(e.guard, e.st.op, mods, e.args) }

func (e *stmtText) withArg(i int, text string) string {
	args := slices.Clone(e.args)
	args[i] = text
	return e.with(e.guard, e.st.op, e.st.mods, args)
}

func (e *stmtText) has(mod string) bool { return slices.Contains(e.st.mods, mod) }

// replaced gives the suffixes with one of them exchanged; "" drops it.
func (e *stmtText) replaced(old, new string) []string {
	var out []string
	for _, m := range e.st.mods {
		if m == old {
			if m = new; m == "" {
				continue
			}
		}
		out = append(out, m)
	}
	return out
}

// swapped exchanges elements i and j of a vector operand.
func swapped(arg string, i, j int) (string, bool) {
	inner := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(arg), "{"), "}")
	list := strings.Split(inner, ",")
	if j >= len(list) || strings.TrimSpace(list[i]) == strings.TrimSpace(list[j]) {
		return "", false
	}
	for k := range list {
		list[k] = strings.TrimSpace(list[k])
	}
	list[i], list[j] = list[j], list[i]
	return "{" + strings.Join(list, ", ") + "}", true
}

var mutations = []mutation{
	{"fragment", func(e *stmtText) (out []string) {
		swap := func(arg, i, j int) {
			if text, ok := swapped(e.args[arg], i, j); ok {
				out = append(out, e.withArg(arg, text))
			}
		}
		switch {
		case e.st.op == "mma" && len(e.args) >= 4:
			swap(1, 1, 2)
			swap(1, 0, 1)
			swap(2, 0, 1)
			swap(3, 0, 2)
			swap(3, 0, 1)
		case e.st.op == "ldmatrix":
			swap(0, 0, 1)
			swap(0, 1, 2)
		}
		return
	}},
	{"trans", func(e *stmtText) []string {
		if e.st.op == "ldmatrix" && e.has("trans") {
			return []string{e.withMods(e.replaced("trans", ""))}
		}
		return nil
	}},
	{"wait", func(e *stmtText) []string {
		switch {
		case e.st.op != "cp":
		case e.has("wait_group"):
			n, err := strconv.Atoi(strings.TrimSpace(e.args[0]))
			if err != nil {
				return nil
			}
			return []string{";", e.withArg(0, strconv.Itoa(n+1))}
		case e.has("wait_all"), e.has("commit_group"):
			return []string{";"}
		}
		return nil
	}},
	{"barrier", func(e *stmtText) []string {
		if e.st.op == "bar" || e.st.op == "barrier" {
			return []string{";"}
		}
		return nil
	}},
	{"selector", func(e *stmtText) []string {
		if e.st.op != "mma" || len(e.args) != 6 || e.has("m16n8k64") {
			return nil
		}
		if strings.HasPrefix(strings.TrimSpace(e.args[5]), "0x0") || strings.TrimSpace(e.args[5]) == "0" {
			return []string{e.withArg(5, "1")}
		}
		return []string{e.withArg(5, "0")}
	}},
	{"bounds", boundsMutants},
	{"addsub", func(e *stmtText) []string {
		other := map[string]string{"add": "sub", "sub": "add", "min": "max", "max": "min"}[e.st.op]
		if other == "" {
			return nil
		}
		return []string{e.with(e.guard, other, e.st.mods, e.args)}
	}},
	{"guard", func(e *stmtText) []string {
		switch {
		case e.guard == "":
			return nil
		case e.st.op == "bra":
			return []string{";"}
		}
		return []string{e.with("", e.st.op, e.st.mods, e.args)}
	}},
	{"offset", offsetMutants},
	{"shuffle", shuffleMutants},
	{"shift", func(e *stmtText) []string {
		if e.st.op != "shl" && e.st.op != "shr" || len(e.args) != 3 {
			return nil
		}
		n, err := strconv.Atoi(strings.TrimSpace(e.args[2]))
		if err != nil || n == 31 || n == 63 { // sign masks: a shift by one more is the same
			return nil
		}
		return []string{e.withArg(2, strconv.Itoa(n+1))}
	}},
}

// shuffleMutants reads another lane, or none. A butterfly is not turned into a
// shift down: in a reduction whose lane 0 alone is used both give the same.
func shuffleMutants(e *stmtText) (out []string) {
	if e.st.op != "shfl" || len(e.args) < 5 {
		return nil
	}
	for _, m := range [][2]string{{"down", "up"}, {"up", "down"}, {"idx", "bfly"}} {
		if e.has(m[0]) {
			out = append(out, e.withMods(e.replaced(m[0], m[1])))
		}
	}
	lane, clamp := strings.TrimSpace(e.args[2]), strings.TrimSpace(e.args[3])
	if n, err := strconv.Atoi(lane); err == nil {
		out = append(out, e.withArg(2, strconv.Itoa(n^1)))
	} else if e.has("bfly") && lane != clamp {
		out = append(out, e.withArg(2, clamp)) // another distance
	}
	dst, _, _ := strings.Cut(e.args[0], "|")
	return append(out, e.with(e.guard, "mov", []string{"b32"}, []string{strings.TrimSpace(dst), e.args[1]}))
}

func boundsMutants(e *stmtText) (out []string) {
	if e.st.op != "setp" || len(e.args) < 3 {
		return nil
	}
	for _, m := range [][2]string{{"lt", "le"}, {"le", "lt"}, {"gt", "ge"}, {"ge", "gt"}, {"eq", "ne"}, {"ne", "eq"},
		{"ltu", "leu"}, {"leu", "ltu"}, {"gtu", "geu"}, {"geu", "gtu"}, {"lo", "ls"}, {"ls", "lo"}, {"hi", "hs"}, {"hs", "hi"}} {
		if e.has(m[0]) {
			out = append(out, e.withMods(e.replaced(m[0], m[1])))
			break
		}
	}
	if n, err := strconv.ParseInt(strings.TrimSpace(e.args[2]), 10, 64); err == nil {
		out = append(out, e.withArg(2, strconv.FormatInt(n+1, 10)))
	}
	return out
}

// offsetMutants moves an access to shared memory by one element.
func offsetMutants(e *stmtText) []string {
	arg := -1
	size := 0
	switch e.st.op {
	case "ld", "st":
		if !e.has("shared") {
			return nil
		}
		arg = 1
		if e.st.op == "st" {
			arg = 0
		}
		for _, m := range e.st.mods {
			if t, ok := dtypeByName[m]; ok {
				size = t.size() * vectorLen(e.st)
			}
		}
	case "ldmatrix":
		arg, size = 1, 16
	case "cp":
		if len(e.st.args) >= 3 {
			arg, size = 0, int(e.st.args[2].bits)
		}
	}
	if arg < 0 || arg >= len(e.args) || size == 0 || e.st.args[arg].kind != argMem {
		return nil
	}
	a := e.st.args[arg]
	base := strings.TrimPrefix(strings.TrimSpace(e.args[arg]), "[")
	if i := strings.IndexAny(base, "+-]"); i >= 0 {
		base = strings.TrimSpace(base[:i])
	}
	if base == "" {
		return nil
	}
	return []string{e.withArg(arg, fmt.Sprintf("[%s+%d]", base, a.off+int64(size)))}
}

// Mutants lists the mutants of one kernel, at most perKind of each kind (0: all),
// spread evenly over the kernel's text.
func Mutants(src, kernel string, perKind int) ([]Mutant, error) {
	prog, err := parse(src)
	if err != nil {
		return nil, fmt.Errorf("ptx: %w", err)
	}
	i := slices.IndexFunc(prog.funcs, func(f *function) bool { return f.name == kernel })
	if i < 0 {
		return nil, fmt.Errorf("kernel %q: %w", kernel, ErrNotFound)
	}
	var out []Mutant
	idle := signFixes(prog.funcs[i])
	for _, mu := range mutations {
		var list []Mutant
		for _, st := range prog.funcs[i].body {
			if idle[st] && (mu.kind == "shift" || mu.kind == "addsub") {
				continue
			}
			e := textOf(src, st)
			for _, text := range mu.make(e) {
				list = append(list, Mutant{Kernel: kernel, Line: st.line, Kind: mu.kind, pos: st.pos, end: st.end, text: text,
					Detail: fmt.Sprintf("%s -> %s", oneLine(src[st.pos:st.end]), oneLine(text))})
			}
		}
		if n := len(list); perKind > 0 && n > perKind {
			for k := 0; k < perKind; k++ {
				out = append(out, list[k*n/perKind])
			}
			continue
		}
		out = append(out, list...)
	}
	return out, nil
}

// signFixes finds the instructions by which a compiler rounds a signed division
// by a power of two toward zero: (x + (x >> 31 >>> n)) >> m. What they add is zero
// for the indices of a kernel, so that changing them changes nothing.
func signFixes(fn *function) map[*statement]bool {
	sign, fix := map[int]bool{}, map[int]bool{}
	out := map[*statement]bool{}
	for _, st := range fn.body {
		if len(st.args) != 3 || st.args[0].kind != argReg {
			continue
		}
		dst, x, y := st.args[0].reg, st.args[1], st.args[2]
		switch {
		case st.op == "shr" && y.kind == argImm && (y.bits == 31 || y.bits == 63) && isSigned(st):
			sign[dst] = true
		case st.op == "shr" && x.kind == argReg && sign[x.reg]:
			fix[dst] = true
			out[st] = true
		case st.op == "add" && (x.kind == argReg && fix[x.reg] || y.kind == argReg && fix[y.reg]):
			out[st] = true
		}
	}
	return out
}

func isSigned(st *statement) bool {
	return slices.Contains(st.mods, "s32") || slices.Contains(st.mods, "s64")
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
