package prune

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/sparserun/sparserun/model"
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
	inc, err := compile(include)
	if err != nil {
		return nil, err
	}
	exc, err := compile(exclude)
	if err != nil {
		return nil, err
	}
	chosen := map[*model.Weight]bool{}
	if len(inc) == 0 {
		for _, n := range g.Linears() {
			chosen[n.Weight] = true
		}
		for _, n := range g.Nodes {
			if n.Op == model.OpEmbedding || n.Name == model.HeadName {
				delete(chosen, n.Weight)
			}
		}
	}
	for _, w := range g.Weights {
		if w.Rank1() {
			continue
		}
		if inc.match(w.Name) {
			chosen[w] = true
		}
		if exc.match(w.Name) {
			delete(chosen, w)
		}
	}
	if err := inc.unused(); err != nil {
		return nil, err
	}
	if err := exc.unused(); err != nil {
		return nil, err
	}
	var out []*model.Weight
	for _, w := range g.Weights {
		if chosen[w] {
			out = append(out, w)
		}
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
