package prune

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// expand turns sets of wide neighbours into positions.
func expand(sets []int, wide int) (out []int) {
	for _, s := range sets {
		for i := range wide {
			out = append(out, s*wide+i)
		}
	}
	return out
}

// rowsOf takes rows out of a matrix of cols columns.
func rowsOf(w []float32, cols int, rows []int) cut {
	c := cut{rows: len(rows), cols: cols, w: make([]float32, 0, len(rows)*cols)}
	for _, r := range rows {
		c.w = append(c.w, w[r*cols:(r+1)*cols]...)
	}
	return c
}

// colsOf takes columns out of it.
func colsOf(w []float32, cols int, at []int) cut {
	c := cut{rows: len(w) / cols, cols: len(at), w: make([]float32, 0, len(w)/cols*len(at))}
	for r := 0; r < len(w); r += cols {
		for _, i := range at {
			c.w = append(c.w, w[r+i])
		}
	}
	return c
}

// build makes the new graph and returns it with the matrices that were cut.
func (s *shrink) build() (*model.Graph, []*model.Weight, error) {
	cfg := *s.g.Config
	cfg.Layers = len(s.kept)
	cfg.LayerHeads, cfg.LayerKVHeads, cfg.LayerFFN = nil, nil, nil
	var heads, kv, ffn []int
	for _, b := range s.kept {
		h, k, _ := s.g.Config.Layer(b)
		heads, kv, ffn = append(heads, len(s.heads[b])*(h/k)), append(kv, len(s.heads[b])), append(ffn, len(s.channels[b]))
	}
	// Equal layers are an ordinary configuration; others say so layer by layer.
	if cfg.Heads = heads[0]; slices.Max(heads) != slices.Min(heads) {
		cfg.LayerHeads = heads
	}
	if cfg.KVHeads = kv[0]; slices.Max(kv) != slices.Min(kv) {
		cfg.LayerKVHeads = kv
	}
	if cfg.FFN = ffn[0]; slices.Max(ffn) != slices.Min(ffn) {
		cfg.LayerFFN = ffn
	}
	made := map[string]*model.Weight{}
	var changed []*model.Weight
	find := func(name string) (*model.Weight, error) {
		if w := made[name]; w != nil {
			return w, nil
		}
		old := name
		if rest, ok := strings.CutPrefix(name, "model.layers."); ok {
			n, tail, _ := strings.Cut(rest, ".")
			i, err := strconv.Atoi(n)
			if err != nil || i >= len(s.kept) {
				return nil, fmt.Errorf("prune: %q: %w", name, model.ErrWeight)
			}
			old = "model.layers." + strconv.Itoa(s.kept[i]) + "." + tail
		}
		src, err := s.g.Weight(old)
		if err != nil {
			return nil, nil // the model has none of that name
		}
		w := &model.Weight{Name: name, Shape: src.Shape, Data: src.Data}
		made[name] = w
		c, ok := s.weights[old]
		if !ok {
			return w, nil
		}
		if src.Rank1() {
			w.Shape, w.Data = []int{c.cols}, sparse.NewDense(1, c.cols, c.w)
			return w, nil
		}
		w.Shape = []int{c.rows, c.cols}
		store := s.o.Store
		store.Layout = sparse.LayoutDense
		if w.Data, err = store.pack(c.w, nil, c.rows, c.cols, nil); err != nil {
			return nil, fmt.Errorf("prune: %q: %w", name, err)
		}
		changed = append(changed, w)
		s.rep.Layers = append(s.rep.Layers, LayerReport{Name: name, Rows: c.rows, Cols: c.cols, Bytes: w.Data.Bytes().Total(),
			Layout: w.Data.Layout(), DType: w.Data.DType(), Sparsity: 1 - float64(len(c.w))/float64(src.Shape[0]*src.Shape[1])})
		return w, nil
	}
	out, err := model.NewLlama(cfg, find)
	if err != nil {
		return nil, nil, err
	}
	out.Name, out.Tokenizer, out.Source = s.g.Name, s.g.Tokenizer, s.g.Source
	return out, changed, nil
}
