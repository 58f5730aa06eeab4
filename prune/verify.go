package prune

import (
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// Check is the outcome of one check of Verify, in verify's JSON form.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// Keys of a recipe that end in a matrix's name: the digest of its mask, and its
// pattern where an Allocation gave it one of its own.
const (
	maskKey  = "prune.mask."
	levelKey = "prune.level."
)

// Verify checks every matrix that a recipe names (Report.Recipe, or the metadata
// of a file that was saved with it): it is there, it holds the pattern, and its
// mask is the one that pruning made. The error wraps ErrVerify and names the
// first failure; the checks list all of them.
func Verify(g *model.Graph, recipe map[string]string) ([]Check, error) {
	p, err := ParsePattern(recipe["prune.pattern"])
	if err != nil {
		return nil, fmt.Errorf("prune: recipe: %w", err)
	}
	var names []string
	for k := range recipe {
		if name, ok := strings.CutPrefix(k, maskKey); ok {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("prune: recipe names no pruned matrix: %w", ErrVerify)
	}
	slices.Sort(names)
	var checks []Check
	var first error
	for _, name := range names {
		c := Check{Name: name, OK: true}
		own := p
		if level, ok := recipe[levelKey+name]; ok {
			if own, err = ParsePattern(level); err != nil {
				return nil, fmt.Errorf("prune: recipe: %w", err)
			}
		}
		if err := verifyOne(g, name, own, recipe[maskKey+name], &c.Detail); err != nil {
			c.OK, c.Detail = false, err.Error()
			if first == nil {
				first = fmt.Errorf("prune: %q: %w", name, err)
			}
		}
		checks = append(checks, c)
	}
	return checks, first
}

func verifyOne(g *model.Graph, name string, p Pattern, want string, detail *string) error {
	w, err := g.Weight(name)
	if err != nil {
		return fmt.Errorf("%w: %w", err, ErrVerify)
	}
	if err := Holds(w.Data, p); err != nil {
		return err
	}
	zeros, sum, err := digest(w.Data)
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(sum[:8]); got != want {
		return fmt.Errorf("mask digest: want %s, got %s: %w", want, got, ErrVerify)
	}
	rows, cols := w.Data.Dims()
	*detail = fmt.Sprintf("%v held, %d of %d weights zero", p, zeros, rows*cols)
	return nil
}

// Holds checks that a matrix has the zeros that a pattern asks for. More zeros
// are no fault. A pattern whose budget spans layers is not checked here.
func Holds(m sparse.Matrix, p Pattern) error {
	rows, cols := m.Dims()
	zeros, need := 0, 0
	zeroTiles := 0
	var tile []bool // of the current row of tiles: has a nonzero
	err := sparse.EachRow(m, func(r int, row []float32) error {
		n := 0
		for _, x := range row {
			if x == 0 {
				n++
			}
		}
		zeros += n
		switch p := p.(type) {
		case NM:
			for g := 0; g < cols; g += p.Of {
				grp, nz := row[g:min(g+p.Of, cols)], 0
				for _, x := range grp {
					if x != 0 {
						nz++
					}
				}
				if nz > p.keep(len(grp)) {
					return fmt.Errorf("row %d columns %d..%d: %d nonzeros break %v: %w", r, g, g+len(grp)-1, nz, p, ErrVerify)
				}
			}
		case Unstructured:
			if want := budget(cols, p.Sparsity); p.Scope == ScopeRow && n < want {
				return fmt.Errorf("row %d: want %d zeros, got %d: %w", r, want, n, ErrVerify)
			}
		case Block:
			if r%p.Rows == 0 {
				tile = make([]bool, (cols+p.Cols-1)/p.Cols)
			}
			for c, x := range row {
				tile[c/p.Cols] = tile[c/p.Cols] || x != 0
			}
			if r%p.Rows == p.Rows-1 || r == rows-1 {
				for _, used := range tile {
					if !used {
						zeroTiles++
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	switch p := p.(type) {
	case Unstructured:
		if p.Scope == ScopeLayer {
			need = budget(rows*cols, p.Sparsity)
		}
		if zeros < need {
			return fmt.Errorf("want %d zeros, got %d: %w", need, zeros, ErrVerify)
		}
	case Block:
		tiles := (rows + p.Rows - 1) / p.Rows * ((cols + p.Cols - 1) / p.Cols)
		if want := budget(tiles, p.Sparsity); zeroTiles < want {
			return fmt.Errorf("want %d zero blocks of %dx%d, got %d: %w", want, p.Rows, p.Cols, zeroTiles, ErrVerify)
		}
	}
	return nil
}

// ratio is sqrt(a/b), 0 for an empty whole.
func ratio(a, b float64) float64 {
	if b <= 0 || a <= 0 {
		return 0
	}
	return math.Sqrt(a / b)
}
