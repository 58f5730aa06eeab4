package prune

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/train"
)

// DefaultRule says in one line what is pruned when nothing else is asked for.
const DefaultRule = "all Linear layers but the head; embeddings, norms and biases stay"

// Targets lists the weights to prune, each once, in the order of the graph.
//
// Without patterns the rule is DefaultRule; a matrix that an embedding or the
// head shares stays. include replaces the rule by its own choice among all
// matrices of the graph, exclude then removes some. A pattern is a glob over the
// weight's name ("*.mlp.*", where * spans dots) or, after "re:", a regular
// expression. A pattern that matches nothing is an error: it is a typing mistake.
func Targets(g *model.Graph, include, exclude []string) ([]*model.Weight, error) {
	usual := map[*model.Weight]bool{}
	for _, n := range g.Linears() {
		usual[n.Weight] = true
	}
	for _, n := range g.Nodes {
		if n.Op == model.OpEmbedding || n.Name == model.HeadName {
			delete(usual, n.Weight)
		}
	}
	var all []*model.Weight
	for _, w := range g.Weights {
		if !w.Rank1() {
			all = append(all, w)
		}
	}
	return choose(all, include, exclude, func(w *model.Weight) (string, bool) { return w.Name, usual[w] })
}

// netTargets chooses among train's prunable parameters as Targets does among weights; without patterns all.
func netTargets(n *train.Net, include, exclude []string) ([]*train.Param, error) {
	return choose(n.Prunable(), include, exclude, func(p *train.Param) (string, bool) { return p.Name, true })
}

// choose takes those of all whose names match include, or without it the usual ones, and no name of exclude. of
// tells a matrix's name and whether it is usual.
func choose[T any](all []T, include, exclude []string, of func(T) (string, bool)) ([]T, error) {
	inc, err := compile(include)
	if err != nil {
		return nil, err
	}
	exc, err := compile(exclude)
	if err != nil {
		return nil, err
	}
	var out []T
	for _, x := range all {
		name, usual := of(x)
		in, ex := inc.match(name), exc.match(name) // both always: a pattern that matches nothing is found out
		if (in || usual && len(inc) == 0) && !ex {
			out = append(out, x)
		}
	}
	if err := inc.unused(); err != nil {
		return nil, err
	}
	if err := exc.unused(); err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("prune: no matrix is left to prune (rule: %s): %w", DefaultRule, ErrTarget)
	}
	return out, nil
}

type namePattern struct {
	src  string
	re   *regexp.Regexp // nil: a glob
	used bool
}

type namePatterns []*namePattern

func compile(src []string) (namePatterns, error) {
	var out namePatterns
	for _, s := range src {
		p := &namePattern{src: s}
		if re, ok := strings.CutPrefix(s, "re:"); ok {
			c, err := regexp.Compile(re)
			if err != nil {
				return nil, fmt.Errorf("prune: pattern %q: %v: %w", s, err, ErrTarget)
			}
			p.re = c
		} else if _, err := path.Match(s, ""); err != nil {
			return nil, fmt.Errorf("prune: pattern %q: %v: %w", s, err, ErrTarget)
		}
		out = append(out, p)
	}
	return out, nil
}

func (ps namePatterns) match(name string) bool {
	any := false
	for _, p := range ps {
		var ok bool
		if p.re != nil {
			ok = p.re.MatchString(name)
		} else {
			// path.Match's * stops at a slash only, and names have none.
			ok, _ = path.Match(p.src, name)
		}
		if ok {
			p.used, any = true, true
		}
	}
	return any
}

func (ps namePatterns) unused() error {
	for _, p := range ps {
		if !p.used {
			return fmt.Errorf("prune: pattern %q matches no matrix: %w", p.src, ErrTarget)
		}
	}
	return nil
}
