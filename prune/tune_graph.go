package prune

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	goruntime "runtime"
	"strconv"
	"time"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/train"
)

// Tune is TuneNet for a graph that train can lower: it ends with the trained weights in g, those of
// the pruned matrices packed. Of Options it heeds Include, Exclude, KeepZeros, Store (DType 0 is
// F32 here), Threads and SourceSHA256. With Distill, g as it stands is the teacher. After an
// error g is as it was.
func Tune(ctx context.Context, g *model.Graph, t Tuning, o Options) (*Report, *TuneReport, error) {
	start := time.Now()
	if err := o.Store.check(); err != nil {
		return nil, nil, err
	}
	if o.Store.DType == 0 {
		o.Store.DType = sparse.F32
	}
	threads := o.Threads
	if threads == 0 {
		threads = goruntime.GOMAXPROCS(0)
	}
	pool := linalg.NewPool(threads)
	n, err := train.New(g, pool)
	if err != nil {
		return nil, nil, err
	}
	if t.Distill != nil && t.Fit.Teacher == nil && !taught(t.Train) {
		if t.Fit.Teacher, err = train.New(g, pool); err != nil {
			return nil, nil, err
		}
	}
	t.Include, t.Exclude, t.KeepZeros = o.Include, o.Exclude, t.KeepZeros || o.KeepZeros
	targets, err := netTargets(n, t.Include, t.Exclude)
	if err != nil {
		return nil, nil, err
	}
	weights := make([]*model.Weight, len(targets))
	dense := make([][]float32, len(targets))
	for i, p := range targets {
		weights[i], dense[i] = p.Weight(), append([]float32(nil), p.W...)
	}
	rep := &Report{Before: size(g, weights), Recipe: map[string]string{}}
	tuned, err := TuneNet(ctx, n, t)
	if err != nil {
		return nil, &tuned, err
	}
	if err := n.Store(); err != nil {
		return nil, &tuned, err
	}
	all := sha256.New()
	for i, p := range targets {
		w := append([]float32(nil), p.W...)
		l, sum, err := o.Store.finish(weights[i], w, nil, t.Pattern)
		if err != nil {
			return nil, &tuned, err
		}
		var diff float64
		for j, x := range p.W {
			d := float64(x) - float64(dense[i][j])
			diff += d * d
		}
		l.Error = ratio(diff, squares(dense[i]))
		rep.Layers = append(rep.Layers, l)
		all.Write(sum[:])
		rep.Recipe[maskKey+p.Name] = hex.EncodeToString(sum[:8])
		if r, ok := t.Rates[p.Name]; ok && !tuned.Gate {
			rep.Recipe[levelKey+p.Name] = Unstructured{Sparsity: r, Scope: ScopeLayer}.String()
		}
	}
	rep.After = size(g, weights)
	var zeros, count float64
	for _, l := range rep.Layers {
		zeros, count = zeros+l.Sparsity*float64(l.Rows)*float64(l.Cols), count+float64(l.Rows)*float64(l.Cols)
	}
	rep.Method, rep.Sparsity, rep.BitsPerWeight = tuned.Method, zeros/max(1, count), 8*float64(rep.After.Pruned)/max(1, count)
	if rep.Pattern = tuned.Pattern; tuned.Gate { // the gate stopped short of the target
		rep.Pattern = withSparsity(t.Pattern, 0).String()
		if u, ok := t.Pattern.(Unstructured); ok {
			rep.Pattern = Unstructured{Sparsity: tuned.Sparsity, Scope: u.Scope}.String()
		}
	}
	t.recipe(rep.Recipe, &tuned)
	kv := rep.Recipe
	kv["prune.pattern"] = rep.Pattern
	kv["prune.sparsity"] = strconv.FormatFloat(rep.Sparsity, 'g', 8, 64)
	kv["prune.masks_sha256"] = hex.EncodeToString(all.Sum(nil))
	if o.SourceSHA256 != "" {
		kv["prune.source_sha256"] = o.SourceSHA256
	}
	rep.Seconds = time.Since(start).Seconds()
	return rep, &tuned, nil
}

// recipe is what a rerun needs besides the data.
func (t *Tuning) recipe(kv map[string]string, r *TuneReport) {
	kv["prune.method"] = r.Method
	kv["prune.version"] = strconv.Itoa(Version)
	kv["prune.schedule"] = r.Schedule
	if c := t.Criterion; c != nil {
		c.recipe(kv)
	}
	kv["prune.finetune"] = fmt.Sprintf("%d steps of %d, rate %g, seed %d", r.Steps, t.Fit.Batch, t.Fit.Rate, t.Fit.Seed)
	if t.Rounds > 0 {
		kv["prune.rounds"] = strconv.Itoa(t.Rounds)
	}
	if t.Splice != nil {
		kv["prune.splice"] = fmt.Sprintf("%+v", *t.Splice)
	}
	if d := t.Distill; d != nil {
		kv["prune.distill"] = fmt.Sprintf("temperature %g weight %g", d.Temperature, d.Weight)
	}
	if t.Gate {
		kv["prune.max_loss"] = strconv.FormatFloat(t.MaxLoss, 'g', -1, 64)
	}
}
