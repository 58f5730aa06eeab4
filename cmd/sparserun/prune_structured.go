package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/sparserun/sparserun/experiment"
	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/prune/depgraph"
	"github.com/sparserun/sparserun/train"
)

// graphFlags remove structure from ONNX networks, and code what is left.
type graphFlags struct {
	Structured float64  `help:"ONNX: remove this fraction of every group of channels, neurons and heads that go together; the file gets smaller." placeholder:"FRACTION"`
	Of         string   `enum:"channels,flops" default:"channels" help:"What --structured is a fraction of: channels or flops (multiply-adds)."`
	RoundTo    int      `default:"1" help:"--structured: what stays of a group is a multiple of this, e.g. 8."`
	Blocks     int      `default:"0" help:"ONNX: remove this many whole residual blocks."`
	Norms      bool     `help:"--structured: layer norms may lose columns; their statistics are then of what is left."`
	Leave      []string `help:"--structured: leave the outputs of these nodes alone (glob over node names, repeatable)." sep:"none"`
	Augment    bool     `help:"Fine-tune on images shifted by up to four pixels and mirrored (photographs, not digits)."`
	codebookFlags
}

// ofGraph reports whether the flags ask for any of it.
func (c *graphFlags) ofGraph() bool { return c.Structured != 0 || c.Blocks != 0 || c.Codebook != 0 }

// structuredJSON is what prune prints of structure removed from an ONNX network.
type structuredJSON struct {
	usage
	Method     string               `json:"method"`
	Sparsity   float64              `json:"sparsity"` // parameters that are gone
	Before     bytesJSON            `json:"before"`
	After      bytesJSON            `json:"after"`
	Layers     []layerJSON          `json:"layers"`
	Structure  depgraph.Report      `json:"structure"`
	Metric     string               `json:"metric,omitempty"`
	Dense      float64              `json:"value_dense,omitempty"`
	Cut        float64              `json:"value_before_finetuning,omitempty"`
	Value      float64              `json:"value,omitempty"`
	Split      string               `json:"split,omitempty"` // which images these figures are of
	Tune       *train.Report        `json:"finetuning,omitempty"`
	Latency    []experiment.Latency `json:"latency"`
	Output     string               `json:"output"`
	FileSize   int64                `json:"file_bytes"`
	SourceSize int64                `json:"source_file_bytes"`
}

type bytesJSON struct {
	Bytes int64 `json:"bytes"`
}

// layerJSON is a weight before and after.
type layerJSON struct {
	Name     string  `json:"name"`
	Sparsity float64 `json:"sparsity"`
	Was      []int   `json:"shape_before"`
	Shape    []int   `json:"shape"`
}

// graphScores are --score's names for ONNX networks.
var graphScores = map[string]depgraph.Score{"activation": depgraph.L2}

func (c *pruneCmd) graphScore() (depgraph.Score, error) {
	if s, ok := graphScores[c.Score]; ok {
		return s, nil
	}
	for _, s := range depgraph.Scores {
		if string(s) == c.Score {
			return s, nil
		}
	}
	return "", usagef("--score: want one of %v, got %q", depgraph.Scores, c.Score)
}

// pruneGraph is prune for --structured, --blocks and --codebook.
func (c *pruneCmd) pruneGraph(g *globals) error {
	if c.structured() || c.Allocate != "" || c.Permute || c.Quant != "" {
		return usagef("--structured, --blocks and --codebook do not go with --heads, --channels, --layers, --allocate, --permute and --quant")
	}
	if c.Codebook != 0 {
		if c.Structured != 0 || c.Blocks != 0 {
			return usagef("--codebook after --structured: prune twice")
		}
		return c.compress(g)
	}
	if c.Pattern != "" || c.Sparsity != 0 {
		return usagef("--structured and --blocks exclude --sparsity and --pattern: prune twice")
	}
	gr, err := loader.Open(c.Model, c.loadOptions()...)
	if err != nil {
		return err
	}
	defer gr.Close()
	if err := savable(c.Output, true); err != nil {
		return err
	}
	var data labelled
	if c.labelFlags.given() > 0 {
		if data, err = c.labelFlags.open(gr, ""); err != nil {
			return err
		}
	} else if c.Finetune != 0 {
		return usagef("--finetune wants --mnist DIR, --cifar FILE or --data FILE")
	}
	use := startUsage()
	small, rep, err := c.cutGraph(g, gr, data)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Model, err)
	}
	out := structuredJSON{Method: "structured " + string(rep.Score), Structure: rep, Output: c.Output, Layers: shrunk(gr, small),
		Sparsity: 1 - float64(rep.Parameters[1])/float64(max(1, rep.Parameters[0])), Before: bytesJSON{4 * rep.Parameters[0]}, After: bytesJSON{4 * rep.Parameters[1]}}
	if err := c.tuneGraph(g, gr, small, data, &out); err != nil {
		return err
	}
	out.usage = use.stop()
	meta := map[string]string{"sparserun.version": Version, "prune.method": out.Method, "prune.structured": fmt.Sprint(c.Structured), "prune.blocks": strings.Join(rep.Blocks, " ")}
	if err := loader.SaveContext(g.ctx, small, c.Output, loader.SaveOptions{Meta: meta}); err != nil {
		return err
	}
	if out.FileSize, err = diskBytes(c.Output); err != nil {
		return err
	}
	if out.SourceSize, err = diskBytes(c.Model); err != nil {
		return err
	}
	if out.Latency, err = latencies(g.ctx, c.Model, c.Output, g.threads()); err != nil {
		return err
	}
	return g.print(out, out.text)
}

// latencies measures both files at batch 1 and, if their batch is free, 16.
func latencies(ctx context.Context, dense, pruned string, threads int) ([]experiment.Latency, error) {
	gr, err := loader.Open(dense)
	if err != nil {
		return nil, err
	}
	batches, in := []int{1, 16}, gr.Values[gr.Inputs[0]]
	if len(in.Shape) == 0 || in.Shape[0] > 0 {
		batches = batches[:1]
	}
	gr.Close()
	return experiment.Latencies(ctx, dense, pruned, batches, threads)
}

// cutGraph removes blocks, then channels.
func (c *pruneCmd) cutGraph(g *globals, gr *model.Graph, d labelled) (*model.Graph, depgraph.Report, error) {
	score, err := c.graphScore()
	if err != nil {
		return nil, depgraph.Report{}, err
	}
	var grads map[string][]float32
	if score == depgraph.Taylor {
		if d.train == nil {
			return nil, depgraph.Report{}, usagef("--score taylor wants --mnist DIR, --cifar FILE or --data FILE")
		}
		n, err := train.New(gr, linalg.NewPool(g.threads()))
		if err != nil {
			return nil, depgraph.Report{}, err
		}
		items, ok := d.train.(*train.Items)
		if !ok {
			return nil, depgraph.Report{}, usagef("--score taylor wants samples with classes")
		}
		if grads, err = experiment.Gradients(n, items.Slice(0, min(items.Len(), 1000))); err != nil {
			return nil, depgraph.Report{}, err
		}
	}
	at, names := gr, []string(nil)
	if c.Blocks != 0 {
		if at, names, err = depgraph.DropBlocks(gr, c.Blocks, grads); err != nil {
			return nil, depgraph.Report{}, err
		}
	}
	o := depgraph.Options{Ratio: c.Structured, FLOPs: c.Of == "flops", Score: score, Seed: c.Seed, RoundTo: c.RoundTo, Ignore: c.Leave, Norms: c.Norms, Gradients: grads}
	if c.Scope == "global" {
		o.Scope = depgraph.Global
	}
	p, err := depgraph.New(at, o)
	if err != nil {
		return nil, depgraph.Report{}, err
	}
	small, err := p.Small()
	rep := p.Report()
	rep.Blocks, rep.MACs[0], rep.Parameters[0] = names, depgraph.MACs(gr), max(gr.Parameters(), rep.Parameters[0])
	return small, rep, err
}

// shrunk compares the weights of two graphs by name.
func shrunk(was, now *model.Graph) []layerJSON {
	left := map[string]*model.Weight{}
	for _, w := range now.Weights {
		left[w.Name] = w
	}
	var out []layerJSON
	for _, n := range was.Linears() {
		l := layerJSON{Name: n.Weight.Name, Was: n.Weight.Shape, Sparsity: 1}
		if w := left[n.Weight.Name]; w != nil {
			size := func(s []int) (n int) {
				n = 1
				for _, d := range s {
					n *= d
				}
				return n
			}
			l.Shape, l.Sparsity = w.Shape, 1-float64(size(w.Shape))/float64(max(1, size(l.Was)))
		}
		out = append(out, l)
	}
	return out
}

// tuneGraph measures the network as it was and as it is, and fine-tunes it; there must be data.
func (c *pruneCmd) tuneGraph(g *globals, gr, small *model.Graph, d labelled, out *structuredJSON) error {
	if d.train == nil {
		return nil
	}
	pool := linalg.NewPool(g.threads())
	dense, err := train.New(gr, pool)
	if err != nil {
		return err
	}
	n, err := train.New(small, pool)
	if err != nil {
		return err
	}
	on := d.test
	out.Split = "test images"
	if on == nil {
		on, out.Split = d.held, "the last quarter of the samples, which nothing was trained on"
	}
	out.Metric = on.Metric()
	if out.Dense, err = metricOf(dense, on); err != nil {
		return err
	}
	if out.Cut, err = metricOf(n, on); err != nil {
		return err
	}
	out.Value = out.Cut
	if c.Finetune <= 0 {
		return nil
	}
	o := train.Options{Steps: int(c.Finetune * float64((d.train.Len()+c.Batch-1)/max(1, c.Batch))), Batch: c.Batch, Rate: c.Rate, Optimiser: train.Adam{}, Schedule: train.Cosine(0.01), Seed: c.Seed, Patience: c.Patience}
	if d.test != nil { // else the held-back images are what is reported, and nothing is chosen by them
		o.Eval, o.EvalBatch, o.KeepBest = d.held, 500, true
	}
	if c.Distill {
		o.Teacher, o.Loss = dense, train.Distill{Temperature: 4, Weight: 0.7}
	}
	data, err := augmented(d.train, gr, c.Augment, c.Seed)
	if err != nil {
		return err
	}
	rep, err := fit(g, n, data, o, "fine-tuning")
	if err != nil {
		return err
	}
	out.Tune = &rep
	if err := n.Store(); err != nil {
		return err
	}
	out.Value, err = metricOf(n, on)
	return err
}

// augmented shifts and mirrors images of a network that takes channels, height and width.
func augmented(d train.Data, gr *model.Graph, yes bool, seed uint64) (train.Data, error) {
	s := gr.Values[gr.Inputs[0]].Shape
	items, ok := d.(*train.Items)
	switch {
	case !yes:
		return d, nil
	case !ok || len(s) != 4:
		return nil, usagef("--augment wants a network of images [N, C, H, W], this one's input is %v", s)
	}
	return &train.Augmented{Items: items, C: s[1], H: s[2], W: s[3], Shift: 4, Mirror: true, Seed: seed}, nil
}

func (o *structuredJSON) text(w io.Writer) {
	fmt.Fprintln(w, o.Structure)
	if o.Metric != "" {
		fmt.Fprintf(w, "%s (%s): dense %.4f, cut %.4f", o.Metric, o.Split, o.Dense, o.Cut)
		if o.Tune != nil {
			fmt.Fprintf(w, ", fine-tuned %.4f", o.Value)
		}
		fmt.Fprintln(w)
	}
	for _, l := range o.Latency {
		fmt.Fprintf(w, "latency, batch %d, %d threads: dense %.3f ms, pruned %.3f ms: %.2f times as fast (medians of runs by turns)\n", l.Batch, l.Threads, l.Dense, l.Pruned, l.Speedup())
	}
	fmt.Fprintf(w, "file %s -> %s: %s\n", size(o.SourceSize), size(o.FileSize), o.Output)
}
