package cpu

import (
	"fmt"
	"slices"
	"sync"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// compiler turns a plan into a program.
type compiler struct {
	p     *program
	plan  *runtime.Plan
	packs map[packKey]packed
	vecs  map[*model.Weight][]float32
	acts  map[int]*acts           // forms that a buffer's present content has
	mem   map[int]*[forms]*region // memory of forms, by buffer: contents take turns
}

// packKey says when two steps share a packed weight.
type packKey struct {
	w      *model.Weight
	layout sparse.Layout
	weight sparse.DType
	act    sparse.DType
}

func (c *compiler) compile() error {
	if err := c.check(); err != nil {
		return err
	}
	c.packs, c.vecs = map[packKey]packed{}, map[*model.Weight][]float32{}
	c.acts, c.mem = map[int]*acts{}, map[int]*[forms]*region{}
	c.p.bytes = make([]sparse.Bytes, len(c.plan.Steps))
	for _, f := range []func() error{c.inputs, c.buffers, c.state, c.packAll, c.build, c.outputs} {
		if err := f(); err != nil {
			return err
		}
	}
	c.p.totals = make([]runtime.OpCounter, len(c.p.keys))
	for _, r := range c.p.regions {
		c.p.work += int64(len(r.bytes()))
	}
	if c.p.cache != nil {
		c.p.work -= c.p.cache.size()
	}
	return nil
}

// check holds the plan to what the steps rely on.
func (c *compiler) check() error {
	pl := c.plan
	if pl.MaxRows < 1 || pl.MaxSelect < 0 || pl.Arena < 0 {
		return fmt.Errorf("plan of %d rows, %d selected, %d floats: %w", pl.MaxRows, pl.MaxSelect, pl.Arena, runtime.ErrShape)
	}
	for i, b := range pl.Buffers {
		if b.Width < 0 || b.Input >= len(pl.Inputs) || (b.Input < 0 && (b.Offset < 0 || b.Offset > pl.Arena-b.Width*c.rows(b.Selected))) {
			return fmt.Errorf("buffer %d %+v lies outside the arena of %d floats: %w", i, b, pl.Arena, runtime.ErrShape)
		}
	}
	ok := func(b int) bool { return b >= 0 && b < len(pl.Buffers) }
	for i, s := range pl.Steps {
		good := ok(s.Out) && pl.Buffers[s.Out].Input < 0 && (s.Residual == -1 || ok(s.Residual)) && len(s.In) == len(s.Node.In) && pl.Buffers[s.Out].Width >= c.width(s.Node.Out)
		for _, b := range s.In {
			good = good && ok(b) && b != s.Out
		}
		if !good {
			return fmt.Errorf("step %d %q reads %v, %d and writes %d: %w", i, s.Node.Name, s.In, s.Residual, s.Out, runtime.ErrShape)
		}
	}
	for _, b := range append(slices.Clone(pl.Inputs), pl.Outputs...) {
		if !ok(b) {
			return fmt.Errorf("input or output in buffer %d: %w", b, runtime.ErrShape)
		}
	}
	return nil
}

func (c *compiler) rows(selected bool) int {
	if selected {
		return c.plan.MaxSelect
	}
	return c.plan.MaxRows
}

func (c *compiler) width(v model.ValueID) int { return c.plan.Graph.Values[v].Width }

// inputs finds out what each input is for.
func (c *compiler) inputs() error {
	pl := c.plan
	c.p.roles = make([]role, len(pl.Inputs))
	for i, b := range pl.Inputs {
		c.p.roles[i] = role{buf: b, width: c.width(pl.Graph.Inputs[i])}
	}
	for _, s := range pl.Steps {
		for k, b := range s.In {
			in := pl.Buffers[b].Input
			if in < 0 {
				continue
			}
			r := &c.p.roles[in]
			kind := roleFloat
			switch n := s.Node; {
			case n.Op == model.OpEmbedding:
				kind = roleToken
				r.limit, _ = n.Weight.Data.Dims()
			case n.Op == model.OpRoPE && k == 1, n.Op == model.OpAttention && k == 3:
				kind = rolePosition
			case n.Op == model.OpAttention && k == 4:
				kind = roleSequence
			case n.Op == model.OpAttention && k == 5:
				kind = roleTable
			case n.Op == model.OpSelect && k == 1:
				kind = roleSelect
			}
			if r.kind != roleUnused && r.kind != kind {
				return fmt.Errorf("input %d is read as %v and as %v: %w", in, r.kind, kind, runtime.ErrShape)
			}
			r.kind = kind
		}
	}
	return nil
}

// buffers lays out the arena.
func (c *compiler) buffers() error {
	arena, err := c.p.memory(c.plan.Arena)
	if err != nil {
		return err
	}
	c.p.bufs = make([][]float32, len(c.plan.Buffers))
	c.p.ints = make([][]int32, len(c.plan.Buffers))
	for i, b := range c.plan.Buffers {
		n := b.Width * c.rows(b.Selected)
		if b.Input < 0 {
			c.p.bufs[i] = arena[b.Offset : b.Offset+n]
		} else if c.p.roles[b.Input].kind == roleFloat {
			if c.p.bufs[i], err = c.p.memory(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// state makes the KV cache.
func (c *compiler) state() error {
	var atts []model.Attention
	for _, s := range c.plan.Steps {
		if a, ok := s.Node.Attr.(model.Attention); ok && s.Node.Op == model.OpAttention {
			if a.Layer < 0 || a.Layer >= len(c.plan.KV.Widths) || a.KVHeads < 1 || a.Heads%a.KVHeads != 0 || c.plan.KV.Widths[a.Layer] != a.KVHeads*a.HeadDim {
				return fmt.Errorf("%q: attention %+v with KV widths %v: %w", s.Node.Name, a, c.plan.KV.Widths, runtime.ErrShape)
			}
			atts = append(atts, a)
		}
	}
	if len(atts) == 0 {
		return nil
	}
	var err error
	c.p.cache, err = newKVCache(c.p, c.plan, atts)
	return err
}

// packAll repacks every weight, several at a time, the largest first.
func (c *compiler) packAll() error {
	var todo []packKey
	seen := map[packKey]bool{}
	for _, s := range c.plan.Steps {
		if s.Node.Op != model.OpLinear && s.Node.Op != model.OpEmbedding {
			continue
		}
		if k := keyOf(s); !seen[k] {
			seen[k] = true
			todo = append(todo, k)
		}
	}
	size := func(k packKey) int {
		r, n := k.w.Data.Dims()
		return r * n
	}
	slices.SortStableFunc(todo, func(a, b packKey) int { return size(b) - size(a) })
	var mu sync.Mutex
	var wg sync.WaitGroup
	var failed error
	next := 0
	for range min(c.p.pool.threads, len(todo)) {
		wg.Go(func() {
			var s scratch
			for {
				mu.Lock()
				if next == len(todo) || failed != nil {
					mu.Unlock()
					return
				}
				k := todo[next]
				next++
				mu.Unlock()
				w, err := pack(k.w.Data, runtime.Kernel{Op: model.OpLinear, Layout: k.layout, Weight: k.weight, Act: k.act}, c.plan.Group, &s)
				mu.Lock()
				if err != nil && failed == nil {
					failed = fmt.Errorf("%q: %w", k.w.Name, err)
				}
				if err == nil {
					c.packs[k] = w
					c.own(w)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return failed
}

// own has w freed and counted with the program.
func (c *compiler) own(w packed) {
	c.p.packs = append(c.p.packs, w)
	c.p.weights = c.p.weights.Add(w.bytes())
}

func keyOf(s runtime.Step) packKey {
	return packKey{s.Node.Weight, s.Kernel.Layout, s.Kernel.Weight, s.Kernel.Act}
}

// vector reads a norm's gain or a bias of n numbers.
func (c *compiler) vector(w *model.Weight, n int) ([]float32, error) {
	if w == nil {
		return nil, nil
	}
	v, ok := c.vecs[w]
	if !ok {
		var err error
		if v, err = w.Vector(); err != nil {
			return nil, fmt.Errorf("%q: %w", w.Name, err)
		}
		c.vecs[w] = v
		c.p.weights.Values += int64(4 * len(v))
	}
	if len(v) != n {
		return nil, fmt.Errorf("%q: want %d numbers, got %d: %w", w.Name, n, len(v), runtime.ErrShape)
	}
	return v, nil
}

// outputs lets the last step of each result write to the caller's memory, where
// nothing else touches that buffer.
func (c *compiler) outputs() error {
	pl := c.plan
	for i, b := range pl.Outputs {
		if pl.Buffers[b].Input >= 0 && c.p.bufs[b] == nil {
			return fmt.Errorf("output %d is an integer input: %w", i, runtime.ErrUnsupported)
		}
		o := output{buf: b, width: c.width(pl.Graph.Outputs[i]), selected: pl.Buffers[b].Selected}
		writes, reads := 0, 0
		for _, s := range pl.Steps {
			if s.Out == b {
				writes++
			}
			if s.Residual == b || slices.Contains(s.In, b) {
				reads++
			}
		}
		// An output after the first may be left out: nothing to write to then.
		o.direct = i == 0 && writes == 1 && reads == 0 && !slices.Contains(pl.Outputs[1:], b)
		c.p.outs = append(c.p.outs, o)
	}
	return nil
}
