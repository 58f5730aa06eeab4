package prune

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Pattern says how many weights of a matrix go and where they may stand.
type Pattern interface {
	// String is the form that ParsePattern reads.
	String() string
	// Target is the fraction of zeros the pattern asks for, 0..1, tails aside.
	Target() float64
	check() error
}

// Scope is the set of weights that compete for the same budget.
type Scope string

// The scopes. ScopeAuto is what the method's authors use: the layer for
// Magnitude and Random, all matrices for LAMP, the output row for Wanda and RIA, blocks of 128 input
// columns for SparseGPT.
const (
	ScopeAuto   Scope = ""
	ScopeLayer  Scope = "layer"
	ScopeRow    Scope = "row"
	ScopeGlobal Scope = "global"
)

// Unstructured prunes the weights with the smallest scores wherever they are:
// floor(n*Sparsity) of the n weights of a Scope.
type Unstructured struct {
	Sparsity float64
	Scope    Scope
}

// NM keeps Keep of every Of neighbouring input columns of a row: 2:4 keeps two
// of four. (The papers' code counts zeros instead, so that its 1:4 is our 3:4.)
// A shorter group at the end of a row keeps its share, rounded up: of 2 columns
// one, of 3 two, of 1 one.
type NM struct{ Keep, Of int }

// Pattern24 is what sparse tensor cores execute.
var Pattern24 = NM{Keep: 2, Of: 4}

// Block prunes whole tiles of Rows x Cols weights, those with the smallest mean
// score: floor(n*Sparsity) of the n tiles of a layer. Tiles at the edges may be
// smaller.
type Block struct {
	Rows, Cols int
	Sparsity   float64
}

func (u Unstructured) Target() float64 { return u.Sparsity }
func (p NM) Target() float64           { return 1 - float64(p.Keep)/float64(p.Of) }
func (b Block) Target() float64        { return b.Sparsity }

func (u Unstructured) String() string {
	s := strconv.FormatFloat(u.Sparsity, 'g', -1, 64)
	if u.Scope != ScopeAuto {
		s += "/" + string(u.Scope)
	}
	return s
}

func (p NM) String() string { return fmt.Sprintf("%d:%d", p.Keep, p.Of) }

func (b Block) String() string {
	return fmt.Sprintf("%dx%d/%s", b.Rows, b.Cols, strconv.FormatFloat(b.Sparsity, 'g', -1, 64))
}

func (u Unstructured) check() error {
	switch u.Scope {
	case ScopeAuto, ScopeLayer, ScopeRow, ScopeGlobal:
	default:
		return fmt.Errorf("prune: scope: want layer, row or global, got %q: %w", string(u.Scope), ErrPattern)
	}
	return checkSparsity(u.Sparsity)
}

func (p NM) check() error {
	if p.Of < 1 || p.Of > 1<<16 || p.Keep < 0 || p.Keep > p.Of {
		return fmt.Errorf("prune: N:M keeps N of M: got %v: %w", p, ErrPattern)
	}
	return nil
}

func (b Block) check() error {
	if b.Rows < 1 || b.Cols < 1 || b.Rows > 1<<16 || b.Cols > 1<<16 {
		return fmt.Errorf("prune: block: want at least 1x1, got %dx%d: %w", b.Rows, b.Cols, ErrPattern)
	}
	return checkSparsity(b.Sparsity)
}

func checkSparsity(s float64) error {
	if !(s >= 0 && s <= 1) {
		return fmt.Errorf("prune: sparsity: want 0..1, got %v: %w", s, ErrPattern)
	}
	return nil
}

// keep is how many of a group of n <= Of columns stay.
func (p NM) keep(n int) int { return (n*p.Keep + p.Of - 1) / p.Of }

// budget is floor(n*s); a product that misses a whole number by rounding only
// (0.7*10) counts as that number.
func budget(n int, s float64) int {
	return min(n, int(math.Floor(float64(n)*s+1e-9*math.Max(1, float64(n)*s))))
}

// ParsePattern reads a pattern as String writes it: "2:4", "0.5", "50%",
// "0.5/row", "0.5/layer", "0.5/global", "16x4/0.8".
func ParsePattern(s string) (Pattern, error) {
	bad := fmt.Errorf("prune: pattern: want N:M, 0.5, 50%%, 0.5/row, 0.5/global or 16x4/0.8, got %q: %w", s, ErrPattern)
	var p Pattern
	switch {
	case strings.Contains(s, ":"):
		n, m, _ := strings.Cut(s, ":")
		keep, err1 := strconv.Atoi(n)
		of, err2 := strconv.Atoi(m)
		if err1 != nil || err2 != nil {
			return nil, bad
		}
		p = NM{Keep: keep, Of: of}
	case strings.Contains(s, "x"):
		dims, frac, ok := strings.Cut(s, "/")
		r, c, _ := strings.Cut(dims, "x")
		rows, err1 := strconv.Atoi(r)
		cols, err2 := strconv.Atoi(c)
		f, err3 := fraction(frac)
		if !ok || err1 != nil || err2 != nil || err3 != nil {
			return nil, bad
		}
		p = Block{Rows: rows, Cols: cols, Sparsity: f}
	default:
		frac, scope, _ := strings.Cut(s, "/")
		f, err := fraction(frac)
		if err != nil {
			return nil, bad
		}
		p = Unstructured{Sparsity: f, Scope: Scope(scope)}
	}
	return p, p.check()
}

func fraction(s string) (float64, error) {
	if t, ok := strings.CutSuffix(s, "%"); ok {
		f, err := strconv.ParseFloat(t, 64)
		return f / 100, err
	}
	return strconv.ParseFloat(s, 64)
}
