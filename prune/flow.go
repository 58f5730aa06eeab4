package prune

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

// chunkTokens is how many tokens run through the nodes at a time: enough rows for
// full-speed products, few enough for the buffers to stay small.
const chunkTokens = 1024

// span is a run of nodes of a graph: lo <= i < hi.
type span struct{ lo, hi int }

// blocks cuts a language model's nodes into what comes before its layers, the
// layers, and what comes after.
func blocks(g *model.Graph) (before span, layers []span, after span, err error) {
	key := func(i int) string {
		rest, ok := strings.CutPrefix(g.Nodes[i].Name, "model.layers.")
		if !ok {
			return ""
		}
		n, _, _ := strings.Cut(rest, ".")
		return n
	}
	i := 0
	for i < len(g.Nodes) && key(i) == "" {
		i++
	}
	before = span{0, i}
	for i < len(g.Nodes) && key(i) != "" {
		lo := i
		for i < len(g.Nodes) && key(i) == key(lo) {
			i++
		}
		layers = append(layers, span{lo, i})
	}
	after = span{i, len(g.Nodes)}
	if len(layers) == 0 || slices.IndexFunc(g.Nodes[i:], func(n *model.Node) bool { return strings.HasPrefix(n.Name, "model.layers.") }) >= 0 {
		return before, nil, after, fmt.Errorf("prune: graph is no stack of layers: %w", ErrCalib)
	}
	return before, layers, after, nil
}

// liveAt lists the values that nodes before i write and nodes from i on read.
func liveAt(g *model.Graph, i int) []model.ValueID {
	written := map[model.ValueID]bool{}
	for _, n := range g.Nodes[:i] {
		written[n.Out] = true
	}
	var live []model.ValueID
	for _, n := range g.Nodes[i:] {
		for _, v := range n.In {
			if written[v] && !slices.Contains(live, v) {
				live = append(live, v)
			}
		}
	}
	return live
}

// flow is the activations of all calibration windows at a cut of the graph.
type flow struct {
	x    *executor
	ids  []int32
	at   int    // nodes before at have run
	live values // [tokens, width] each
}

// newFlow starts ahead of the first node.
func newFlow(g *model.Graph, pool *linalg.Pool, c Calib) (*flow, error) {
	x, err := newExecutor(g, pool, len(c.Windows[0]))
	if err != nil {
		return nil, err
	}
	f := &flow{x: x, live: values{}}
	for _, w := range c.Windows {
		f.ids = append(f.ids, w...)
	}
	return f, nil
}

// nodes of a span.
func (f *flow) nodes(s span) []*model.Node { return f.x.g.Nodes[s.lo:s.hi] }

// chunks calls each with the values of a few whole windows after the other,
// after the nodes of s have run on them; what keep lists is then the live set.
// Without keep the flow stays where it is.
func (f *flow) chunks(ctx context.Context, s span, keep []model.ValueID, each func(v values, rows int) error) error {
	next := values{}
	for _, id := range keep {
		if next[id] = f.live[id]; next[id] == nil {
			next[id] = make([]float32, len(f.ids)*f.x.g.Values[id].Width)
		}
	}
	step := max(1, chunkTokens/f.x.window) * f.x.window
	for lo := 0; lo < len(f.ids); lo += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		hi := min(lo+step, len(f.ids))
		v, mine := values{}, map[model.ValueID]bool{}
		for _, set := range []values{f.live, next} {
			for id, all := range set {
				w := f.x.g.Values[id].Width
				v[id], mine[id] = all[lo*w:hi*w], true
			}
		}
		if err := f.x.run(f.nodes(s), f.ids[lo:hi], v); err != nil {
			return err
		}
		if each != nil {
			if err := each(v, hi-lo); err != nil {
				return err
			}
		}
		f.x.recycle(v, mine)
	}
	if keep != nil {
		f.live, f.at = next, s.hi
	}
	return nil
}

// recycle releases the buffers of v but those that are not ours.
func (x *executor) recycle(v values, keep map[model.ValueID]bool) {
	for id, b := range v {
		if !keep[id] && len(b) > 0 {
			x.release(b)
		}
	}
}

// advance runs the nodes up to i, exclusive, and stops there.
func (f *flow) advance(ctx context.Context, i int) error {
	s := span{f.at, i}
	if err := f.x.load(f.nodes(s)); err != nil {
		return err
	}
	return f.chunks(ctx, s, liveAt(f.x.g, i), nil)
}

// Perplexity is exp of the mean negative log-likelihood of the next token over
// windows that do not overlap, in float32 with float64 sums. Layer by layer over
// all windows: the float32 form of only one layer exists at any time.
func Perplexity(ctx context.Context, g *model.Graph, c Calib, threads int) (float64, error) {
	if _, err := c.describe(g.Config.Vocab); err != nil {
		return 0, err
	}
	f, err := newFlow(g, linalg.NewPool(threads), c)
	if err != nil {
		return 0, err
	}
	_, layers, after, err := blocks(g)
	if err != nil {
		return 0, err
	}
	for _, s := range layers {
		if err := f.advance(ctx, s.hi); err != nil {
			return 0, err
		}
		f.x.drop(f.nodes(s))
	}
	return f.perplexity(ctx, after)
}

// perplexity runs the nodes after the layers a few rows at a time, as logits are wide.
func (f *flow) perplexity(ctx context.Context, after span) (float64, error) {
	const step = 128
	if err := f.x.load(f.nodes(after)); err != nil {
		return 0, err
	}
	out := f.x.g.Outputs[0]
	vocab := f.x.g.Values[out].Width
	loss := make([]float64, len(f.ids))
	for lo := 0; lo < len(f.ids); lo += step {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		hi := min(lo+step, len(f.ids))
		v, mine := values{}, map[model.ValueID]bool{}
		for id, all := range f.live {
			w := f.x.g.Values[id].Width
			v[id], mine[id] = all[lo*w:hi*w], true
		}
		// Select passes its input on: its buffer must not be released twice.
		for _, n := range f.nodes(after) {
			if n.Op == model.OpSelect {
				mine[n.Out] = true
			}
		}
		if err := f.x.run(f.nodes(after), f.ids[lo:hi], v); err != nil {
			return 0, err
		}
		logits := v[out]
		f.x.eachRow(hi-lo, func(r int) {
			if t := lo + r; (t+1)%f.x.window != 0 {
				loss[t] = nextTokenLoss(logits[r*vocab:(r+1)*vocab], f.ids[t+1])
			}
		})
		f.x.recycle(v, mine)
	}
	var sum float64
	for _, l := range loss {
		sum += l
	}
	n := len(f.ids) / f.x.window * (f.x.window - 1)
	return math.Exp(sum / float64(n)), nil
}

// nextTokenLoss is -log softmax(logits)[id].
func nextTokenLoss(logits []float32, id int32) float64 {
	top := slices.Max(logits)
	var sum float64
	for _, v := range logits {
		sum += math.Exp(float64(v - top))
	}
	return math.Log(sum) + float64(top) - float64(logits[id])
}
