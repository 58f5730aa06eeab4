package main

import (
	"regexp"
	"strconv"
	"strings"
)

// instr is one SASS instruction.
type instr struct {
	addr   int
	guard  bool   // under a predicate
	op     string // with its modifiers: "HMMA.SP.16832.F32"
	args   string
	target int // of a branch, -1 otherwise
	stall  int // cycles the issuer waits after it (bits 105-108 of the encoding)
}

// base is the opcode without modifiers.
func (i instr) base() string { return strings.SplitN(i.op, ".", 2)[0] }

// function is a kernel's code.
type function struct {
	name string
	code []instr
}

var (
	reFunction = regexp.MustCompile(`^\s*Function : (\S+)`)
	reInstr    = regexp.MustCompile(`^\s*/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);\s*/\* (0x[0-9a-f]{16}) \*/`)
	reHigh     = regexp.MustCompile(`^\s*/\* (0x[0-9a-f]{16}) \*/\s*$`)
	reTarget   = regexp.MustCompile(`0x([0-9a-f]+)\)?\s*$`)
)

// parseSASS reads the output of cuobjdump -sass: every instruction is a line with the
// text and the low half of its encoding, then a line with the high half.
func parseSASS(text string) []*function {
	var fs []*function
	var f *function
	for line := range strings.Lines(text) {
		if m := reFunction.FindStringSubmatch(line); m != nil {
			f = &function{name: m[1]}
			fs = append(fs, f)
			continue
		}
		if f == nil {
			continue
		}
		if m := reInstr.FindStringSubmatch(line); m != nil {
			addr, _ := strconv.ParseInt(m[1], 16, 64)
			in := instr{addr: int(addr), guard: m[2] != "", op: m[3], args: strings.TrimSpace(m[4]), target: -1}
			if isBranch(in.op) {
				if t := reTarget.FindStringSubmatch(in.args); t != nil {
					v, _ := strconv.ParseInt(t[1], 16, 64)
					in.target = int(v)
				}
				// BRA.U UP0, 0x10 and BRA.DIV R1, 0x10 are conditional by an operand.
				in.guard = in.guard || strings.Contains(in.args, ",")
			}
			f.code = append(f.code, in)
		} else if m := reHigh.FindStringSubmatch(line); m != nil && len(f.code) > 0 {
			v, _ := strconv.ParseUint(m[1], 0, 64)
			f.code[len(f.code)-1].stall = int(v >> (105 - 64) & 15)
		}
	}
	return fs
}

func isBranch(op string) bool { return op == "BRA" || strings.HasPrefix(op, "BRA.") }

// usage is what cuobjdump -res-usage says of a kernel.
type usage struct{ regs, stack, shared, local int }

var (
	reUsageName = regexp.MustCompile(`^\s*Function (\S+):`)
	reUsage     = regexp.MustCompile(`REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)`)
)

func parseUsage(text string) map[string]usage {
	out := map[string]usage{}
	name := ""
	for line := range strings.Lines(text) {
		if m := reUsageName.FindStringSubmatch(line); m != nil {
			name = m[1]
		} else if m := reUsage.FindStringSubmatch(line); m != nil {
			n := [4]int{}
			for i := range n {
				n[i], _ = strconv.Atoi(m[i+1])
			}
			out[name] = usage{n[0], n[1], n[2], n[3]}
		}
	}
	return out
}
