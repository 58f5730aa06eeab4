package prune

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"strconv"
)

// Errors of this package; every error wraps one of them.
var (
	ErrPattern = errors.New("invalid pruning pattern")
	ErrMethod  = errors.New("invalid pruning method")
	ErrTarget  = errors.New("nothing to prune")
	ErrWeight  = errors.New("weight cannot be pruned")
	ErrCalib   = errors.New("unusable calibration data")
	ErrVerify  = errors.New("graph does not hold its pruning recipe")
)

// Version counts changes that alter masks or weights for the same input.
const Version = 1

// Method decides which weights go and what becomes of those that stay.
type Method interface {
	// Name is the name used in flags, JSON and recipes.
	Name() string
	// recipe adds the parameters that a rerun needs.
	recipe(map[string]string)
	check(Pattern) error
}

// scorer is a Method that ranks the weights of a matrix by themselves, without
// data: the smallest keys go.
type scorer interface {
	Method
	own() Scope // what the method's authors compare
	// score fills keys from the weights of one matrix.
	score(keys []uint32, w []float32, name string)
}

// Magnitude prunes the weights that are smallest in absolute value.
type Magnitude struct{}

func (Magnitude) Name() string             { return "magnitude" }
func (Magnitude) recipe(map[string]string) {}
func (Magnitude) check(Pattern) error      { return nil }
func (Magnitude) score(keys []uint32, w []float32, _ string) {
	for i, x := range w {
		keys[i] = key(x)
	}
}

// Random prunes weights at random: the control that every other method must
// beat. The score of a weight is a hash of the seed, the weight's name and its
// position (SplitMix64's finaliser, Steele et al. 2014), whatever the order in
// which weights are visited.
type Random struct{ Seed uint64 }

func (Random) Name() string                  { return "random" }
func (r Random) recipe(kv map[string]string) { kv["prune.seed"] = strconv.FormatUint(r.Seed, 10) }
func (Random) check(p Pattern) error {
	if _, ok := p.(Block); ok {
		return fmt.Errorf("prune: random %v: %w", p, ErrMethod)
	}
	return nil
}

func (r Random) score(keys []uint32, w []float32, name string) {
	h := fnv.New64a()
	h.Write([]byte(name))
	base := mix64(r.Seed ^ mix64(h.Sum64()))
	for i := range w {
		keys[i] = uint32(mix64(base+uint64(i)*0x9e3779b97f4a7c15)>>32) | 1 // 0 is for zeros that are kept
	}
}

// mix64 is SplitMix64's finaliser.
func mix64(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// resolveScope gives ScopeAuto the method's own scope.
func resolveScope(p Pattern, own Scope) Pattern {
	if u, ok := p.(Unstructured); ok && u.Scope == ScopeAuto {
		u.Scope = own
		return u
	}
	return p
}

// finite fails on a weight that has no rank.
func finite(w []float32, name string, cols int) error {
	for i, x := range w {
		if math.Float32bits(x)&0x7f800000 == 0x7f800000 {
			return fmt.Errorf("prune: %q: row %d column %d is %v: %w", name, i/cols, i%cols, x, ErrWeight)
		}
	}
	return nil
}
