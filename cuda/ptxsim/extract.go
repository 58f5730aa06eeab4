package ptxsim

import (
	"fmt"
	"strings"
)

// Extract cuts a PTX text down to the named kernels and the module's variables.
// What is left out becomes blank lines, so that line numbers stay true.
func Extract(ptx string, kernels ...string) (string, error) {
	prog, err := parse(ptx)
	if err != nil {
		return "", fmt.Errorf("ptx: %w", err)
	}
	want := map[string]bool{}
	for _, k := range kernels {
		want[k] = true
	}
	var out strings.Builder
	at := 0
	for _, fn := range prog.funcs {
		if want[fn.name] {
			delete(want, fn.name)
			continue
		}
		out.WriteString(ptx[at:fn.pos])
		out.WriteString(strings.Repeat("\n", strings.Count(ptx[fn.pos:fn.end], "\n")))
		at = fn.end
	}
	out.WriteString(ptx[at:])
	for k := range want {
		return "", fmt.Errorf("kernel %q: %w", k, ErrNotFound)
	}
	return out.String(), nil
}

// Kernels lists the .entry functions of a PTX text.
func Kernels(ptx string) ([]string, error) {
	prog, err := parse(ptx)
	if err != nil {
		return nil, fmt.Errorf("ptx: %w", err)
	}
	var names []string
	for _, fn := range prog.funcs {
		if fn.entry {
			names = append(names, fn.name)
		}
	}
	return names, nil
}
