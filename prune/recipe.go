package prune

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/sparserun/sparserun/model"
)

// recipe fills the report's recipe.
func (r *run) recipe(m Method) {
	kv := r.rep.Recipe
	r.planned(m, kv)
	if c := r.rep.Calibration; c != nil {
		c.recipe(kv)
	}
	kv["prune.sparsity"] = strconv.FormatFloat(r.rep.Sparsity, 'g', 8, 64)
	all := sha256.New()
	for i, w := range r.targets {
		if p := r.patterns[i]; p != nil {
			kv[levelKey+w.Name] = p.String()
		}
		kv[maskKey+w.Name] = hex.EncodeToString(r.sums[i][:8])
		all.Write(r.sums[i][:])
	}
	kv["prune.masks_sha256"] = hex.EncodeToString(all.Sum(nil))
}

// planned is the part of the recipe that is known ahead of the run.
func (r *run) planned(m Method, kv map[string]string) {
	kv["prune.method"] = m.Name()
	kv["prune.pattern"] = r.p.String()
	kv["prune.version"] = strconv.Itoa(Version)
	r.o.Store.recipe(kv)
	if r.o.Permute {
		kv["prune.permute"] = "mlp and value channels"
	}
	if r.o.KeepZeros {
		kv["prune.keep_zeros"] = "true"
	}
	if r.o.SourceSHA256 != "" {
		kv["prune.source_sha256"] = r.o.SourceSHA256
	}
	if c := r.rep.Calibration; c != nil {
		c.data(kv)
	}
	m.recipe(kv)
	if r.o.Allocate != nil {
		r.o.Allocate.recipe(kv)
	}
}

// Planned is what the recipe of Run with these arguments will say, as far as it
// is known ahead: method, pattern, source, calibration and options, but no
// sparsity reached and no masks. A file whose metadata says all of it is the
// result of such a run.
func Planned(g *model.Graph, m Method, p Pattern, o Options) (map[string]string, error) {
	if m == nil || p == nil {
		return nil, fmt.Errorf("prune: no method or no pattern: %w", ErrMethod)
	}
	r := &run{g: g, p: resolveScope(p, ScopeLayer), o: o, rep: &Report{}}
	if s, ok := m.(scorer); ok {
		r.p = resolveScope(p, s.own())
	}
	if c, ok := m.(calibrated); ok {
		if g.Config == nil {
			return nil, fmt.Errorf("prune: calibration needs a language model: %w", ErrCalib)
		}
		var err error
		if r.rep.Calibration, err = c.calib().describe(g.Config.Vocab); err != nil {
			return nil, err
		}
		r.p = resolveScope(p, c.scope())
	}
	kv := map[string]string{}
	r.planned(m, kv)
	return kv, nil
}
