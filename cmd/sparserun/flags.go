package main

import "strings"

// flagRule says when some flags of a verb do something. One that is given where it does nothing is a mistake of its
// user, who would take the result for something it is not.
type flagRule struct {
	flags string // names, separated by blanks
	ok    bool
	want  string // what they need
}

// integers says whether weights of a type have scales, of --group columns each.
func integers(dtype string) bool { return dtype == "int8" || dtype == "int4" }

// idle fails on the first flag that was given and would do nothing.
func (g *globals) idle(rules []flagRule) error {
	for _, r := range rules {
		for _, name := range strings.Fields(r.flags) {
			if g.given[name] && !r.ok {
				return usagef("--%s does nothing here: it wants %s", name, r.want)
			}
		}
	}
	return nil
}
