package experiment

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sparserun/sparserun/codebook"
	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/train"
)

// Compression says how a network is compressed. Keep and Bits are by matrix, in their order.
type Compression struct {
	Net   string // "lenet-300-100" or "lenet-5"
	Dense train.Options
	// Prune fine-tunes while masks grow to Keep, by magnitude within every matrix, along Zhu and
	// Gupta's cubic over the first two thirds of the steps.
	Prune train.Options
	Keep  []float64
	// Share fine-tunes the codebooks of 2^Bits entries.
	Share train.Options
	Bits  []int
	// Teach mixes the dense network's answers into both losses (Hinton et al. 2015); weight 0: not.
	Teach train.Distill
	// Shift moves training images by up to so many pixels each way, those of the dense network too.
	Shift   int
	Seeds   int
	Samples int // 0: all 60,000 training images
	// Goal is how many times fewer bytes it must have, at an error of at most Points over the dense one's.
	Goal Goal
}

// Compressed is what came out. Accuracies are of all test images, sizes in bytes.
type Compressed struct {
	Net        string  `json:"net"`
	Seed       uint64  `json:"seed"`
	Parameters int     `json:"parameters"` // weights and biases
	Kept       int     `json:"kept"`       // of them, not zero (biases count)
	Dense      float64 `json:"dense_accuracy"`
	Pruned     float64 `json:"pruned_accuracy"`
	Coded      float64 `json:"coded_accuracy"`      // of the file, read back
	DenseBytes int64   `json:"dense_bytes"`         // float32, four for a parameter
	PlainBytes int64   `json:"without_huffman"`     // codebook and index of fixed width, biases; the paper's P+Q
	FileBytes  int64   `json:"file_bytes"`          // everything: network, biases, tables, codes
	Ratio      float64 `json:"ratio"`               // DenseBytes / FileBytes
	Fewer      float64 `json:"parameters_ratio"`    // Parameters / Kept
	Fillers    int     `json:"fillers"`             // zeros that the index had to write
	ValueBits  float64 `json:"value_bits_a_weight"` // after Huffman, over nonzero weights of matrices
	IndexBits  float64 `json:"index_bits_a_weight"` // likewise
	Seconds    float64 `json:"seconds"`
}

// Compressions are the two of the paper's MNIST table, pruned about as far as there (12 times), with five
// bits a value where it has five, six and eight. LeNet-5, dense and pruned, sees shifted images: without
// that (5, 9 and 2 epochs) the coded networks of seeds 1 and 2 erred on 3 more of the 10,000 test images
// than the dense ones did.
func Compressions() []Compression {
	teach := train.Distill{Temperature: 3, Weight: 0.7}
	return []Compression{
		{Net: "lenet-300-100", Dense: adam(15, 1e-3), Prune: adam(30, 1e-3), Keep: []float64{0.07, 0.09, 0.26}, Share: adam(4, 2e-4), Bits: []int{5, 5, 5},
			Teach: teach, Seeds: 3, Goal: Goal{40, 0}},
		{Net: "lenet-5", Dense: adam(8, 1e-3), Prune: adam(16, 1e-3), Keep: []float64{0.66, 0.15, 0.075, 0.25}, Share: adam(3, 2e-4), Bits: []int{5, 5, 5, 5},
			Teach: teach, Shift: 2, Seeds: 3, Goal: Goal{39, 0}},
	}
}

// QuickCompressions is one network on a few images, on which the method must hold too.
func QuickCompressions() []Compression {
	c := Compression{Net: "lenet-300-100", Dense: adam(4, 1e-3), Prune: adam(5, 1e-3), Keep: []float64{0.1, 0.12, 0.3}, Share: adam(1, 2e-4), Bits: []int{5, 5, 5},
		Seeds: 1, Samples: 10000, Goal: Goal{30, 0.5}}
	c.Dense.Batch, c.Prune.Batch, c.Share.Batch = 50, 50, 50
	return []Compression{c}
}

func adam(epochs int, rate float64) train.Options {
	return train.Options{Epochs: epochs, Batch: 128, Rate: rate, Optimiser: train.Adam{}, Schedule: train.Cosine(0.01)}
}

func lenet(net string, seed uint64) (*model.Graph, error) {
	g := train.LeNet300100(seed)
	if net == "lenet-5" {
		g = train.LeNet5(seed)
	}
	return train.Tensors(g)
}

// Deep runs plans of Deep Compression, one task for each seed: it trains a network from nothing,
// prunes it, lets weights share codebooks, and writes it as NET-SEED.srcb in dir, beside the journals
// deep-NET.jsonl. The file is what is measured at the end.
func (l *Lab) Deep(ctx context.Context, plans []Compression, dir string) ([]Compressed, error) {
	var tasks []task
	var results []*Compressed // nil: missing
	for _, c := range plans {
		_, cost, err := network(c.Net, 1)
		if err != nil {
			return nil, err
		}
		j, err := OpenJournal(filepath.Join(dir, "deep-"+c.Net+".jsonl"))
		if err != nil {
			return nil, err
		}
		work := float64((c.Dense.Epochs+c.Prune.Epochs+c.Share.Epochs)*cmp.Or(c.Samples, 60000)) * cost
		for s := range c.Seeds {
			seed, at := uint64(s+1), len(results)
			results = append(results, nil)
			key := fmt.Sprintf("deep compression %s seed %d keep %v bits %v epochs %d+%d+%d", c.Net, seed, c.Keep, c.Bits, c.Dense.Epochs, c.Prune.Epochs, c.Share.Epochs)
			if c.Shift > 0 {
				key += fmt.Sprintf(" shift %d", c.Shift)
			}
			if c.Samples > 0 {
				key += fmt.Sprintf(" samples %d", c.Samples)
			}
			tasks = append(tasks, task{c.Net + " deep compression", work, func(ctx context.Context) error {
				v, err := cellOf(l, j, key, work, func() (Compressed, error) {
					r := &compressor{c: c, lab: l, cost: cost, ctx: ctx, seed: seed, pool: linalg.NewPool(1)}
					r.out = Compressed{Net: c.Net, Seed: seed}
					return r.run(filepath.Join(dir, fmt.Sprintf("%s-%d.srcb", c.Net, seed)))
				})
				if err == nil {
					results[at] = &v
				}
				return err
			}})
		}
	}
	err := l.work(ctx, tasks)
	var out []Compressed
	for _, r := range results {
		if r != nil {
			out = append(out, *r)
		}
	}
	return out, err
}

type compressor struct {
	c    Compression
	lab  *Lab
	cost float64 // of a sample
	d    *train.MNIST
	ctx  context.Context
	seed uint64
	pool *linalg.Pool
	// taught is the training set with the dense network's answers; nil before there are any.
	taught *train.Items
	out    Compressed
}

func (r *compressor) say(format string, a ...any) {
	r.lab.say("%s", fmt.Sprintf("%s, seed %d: ", r.c.Net, r.seed)+fmt.Sprintf(format, a...))
}

func (r *compressor) fit(n *train.Net, o train.Options) error {
	o.Seed = r.seed
	if r.taught != nil {
		o.Loss = r.c.Teach
	}
	items := cmp.Or(r.taught, r.d.Train)
	data := train.Data(items)
	if r.c.Shift > 0 {
		data = &train.Augmented{Items: items, C: 1, H: 28, W: 28, Shift: r.c.Shift, Seed: r.seed}
	}
	_, err := train.Fit(r.ctx, n, data, o, func(train.Progress) {
		r.lab.did(float64(o.Batch)*r.cost, r.c.Net+" deep compression")
	})
	return err
}

func (r *compressor) accuracy(n *train.Net) (float64, error) {
	v, err := train.Evaluate(n, r.d.Test, 500)
	return v.Accuracy(), err
}

func (r *compressor) run(path string) (Compressed, error) {
	start := time.Now()
	d, err := r.lab.whole()
	if err != nil {
		return r.out, err
	}
	if r.d = d; r.c.Samples > 0 {
		r.d = &train.MNIST{Train: d.Train.Slice(0, min(r.c.Samples, d.Train.Len())), Test: d.Test}
	}
	g, err := lenet(r.c.Net, r.seed)
	if err != nil {
		return r.out, err
	}
	n, err := train.New(g, r.pool)
	if err != nil {
		return r.out, err
	}
	if err := r.fit(n, r.c.Dense); err != nil {
		return r.out, err
	}
	if r.out.Dense, err = r.accuracy(n); err != nil {
		return r.out, err
	}
	r.say("dense: %.2f %%", 100*r.out.Dense)
	if r.c.Teach.Weight > 0 {
		d := *r.d.Train
		if err := d.Teach(n, 500); err != nil {
			return r.out, err
		}
		r.taught = &d
	}
	if err := r.prune(n); err != nil {
		return r.out, err
	}
	if err := r.share(n); err != nil {
		return r.out, err
	}
	if err := n.Store(); err != nil {
		return r.out, err
	}
	if err := r.write(g, path); err != nil {
		return r.out, err
	}
	r.out.Seconds = time.Since(start).Seconds()
	r.say("file %d bytes, %.1f times smaller: %.2f %%", r.out.FileBytes, r.out.Ratio, 100*r.out.Coded)
	return r.out, nil
}

// matrices are the parameters that are pruned and coded.
func matrices(n *train.Net) []*train.Param {
	var out []*train.Param
	for _, p := range n.Params {
		if p.Rows > 1 {
			out = append(out, p)
		}
	}
	return out
}

func (r *compressor) prune(n *train.Net) error {
	m := matrices(n)
	if len(m) != len(r.c.Keep) || len(m) != len(r.c.Bits) {
		return fmt.Errorf("experiment: %s: want Keep and Bits of %d matrices, got %d and %d: %w", r.c.Net, len(m), len(r.c.Keep), len(r.c.Bits), ErrOption)
	}
	o := r.c.Prune
	last := -1
	o.OnStep = func(step, total int, _ *train.Net) error {
		ramp := total * 2 / 3
		at := min(step, ramp)
		if at < ramp && step%50 != 0 || at == last {
			return nil
		}
		last = at
		left := math.Pow(1-float64(at)/float64(max(1, ramp)), 3)
		for i, p := range m {
			if err := p.SetMask(largest(p, r.c.Keep[i]+(1-r.c.Keep[i])*left)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := r.fit(n, o); err != nil {
		return err
	}
	var err error
	if r.out.Pruned, err = r.accuracy(n); err != nil {
		return err
	}
	for _, p := range n.Params {
		r.out.Parameters += len(p.W)
		for _, v := range p.W {
			if v != 0 {
				r.out.Kept++
			}
		}
	}
	r.out.Fewer = float64(r.out.Parameters) / float64(r.out.Kept)
	r.say("pruned %.1f times: %.2f %%", r.out.Fewer, 100*r.out.Pruned)
	return nil
}

// largest keeps the given share of a matrix by magnitude; equal ones go by position.
func largest(p *train.Param, keep float64) *sparse.Mask {
	k := int(math.Round(keep * float64(len(p.W))))
	order := make([]float32, len(p.W))
	for i, v := range p.W {
		order[i] = float32(math.Abs(float64(v)))
	}
	slices.Sort(order)
	var threshold float32
	if k < len(order) {
		threshold = order[len(order)-k-min(1, len(order)-k)]
	}
	m := sparse.NewMask(p.Rows, p.Cols)
	left := k
	for pass := range 2 { // those above the threshold, then as many of those on it as there is room for
		for i, v := range p.W {
			a := float32(math.Abs(float64(v)))
			if left > 0 && (pass == 0 && a > threshold || pass == 1 && a == threshold) {
				m.Keep(i/p.Cols, i%p.Cols)
				left--
			}
		}
	}
	return m
}

func (r *compressor) share(n *train.Net) error {
	for i, p := range matrices(n) {
		c, err := codebook.Cluster(p.W, 1<<r.c.Bits[i])
		if err != nil {
			return err
		}
		copy(p.W, c.Values())
		if err := p.Tie(c.Code, len(c.Entries)); err != nil {
			return err
		}
	}
	return r.fit(n, r.c.Share)
}

func (r *compressor) write(g *model.Graph, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("experiment: %w", err)
	}
	if err := loader.SaveContext(r.ctx, g, path, loader.SaveOptions{Format: loader.FormatCodebook}); err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("experiment: %w", err)
	}
	f, err := codebook.Read(b, math.MaxInt32)
	if err != nil {
		return err
	}
	o := &r.out
	o.FileBytes, o.DenseBytes = int64(len(b)), 4*int64(o.Parameters)
	o.Ratio = float64(o.DenseBytes) / float64(o.FileBytes)
	var nonzero, values, gaps, plain int
	for _, t := range f.Tensors {
		st, err := t.Stats()
		if err != nil {
			return err
		}
		if t.Kind != codebook.KindCoded {
			plain += 8 * len(t.Data)
			continue
		}
		width := int(math.Ceil(math.Log2(float64(st.Entries + 1)))) // the filler is a value too
		plain += 8*st.Codebook + (st.Nonzero+st.Fillers)*(width+st.GapBits)
		nonzero, values, gaps, o.Fillers = nonzero+st.Nonzero, values+st.Values, gaps+st.Gaps, o.Fillers+st.Fillers
	}
	o.PlainBytes = int64((plain + 7) / 8)
	o.ValueBits, o.IndexBits = float64(values)/float64(max(1, nonzero)), float64(gaps)/float64(max(1, nonzero))
	again, err := loader.Open(path)
	if err != nil {
		return err
	}
	defer again.Close()
	n, err := train.New(again, r.pool)
	if err != nil {
		return err
	}
	o.Coded, err = r.accuracy(n)
	return err
}

// DeepClaims checks the goals of plans.
func DeepClaims(plans []Compression, rows []Compressed) []Claim {
	var out []Claim
	_, of := group(rows, func(r Compressed) string { return r.Net })
	for _, c := range plans {
		runs := of[c.Net]
		if len(runs) == 0 {
			continue
		}
		ratio := each(runs, func(r Compressed) float64 { return r.Ratio })
		dense := each(runs, func(r Compressed) float64 { return 100 * (1 - r.Dense) })
		coded := each(runs, func(r Compressed) float64 { return 100 * (1 - r.Coded) })
		above := "no higher than dense"
		if c.Goal.Points > 0 {
			above = fmt.Sprintf("at most %.2f points above dense", c.Goal.Points)
		}
		out = append(out,
			Claim{fmt.Sprintf("Deep Compression, %s: at least %.0f times fewer bytes", c.Net, c.Goal.Factor), fmt.Sprintf("%.1f times", ratio.Mean), ratio.Mean >= c.Goal.Factor, true},
			Claim{fmt.Sprintf("Deep Compression, %s: error %s (mean of %d seeds)", c.Net, above, len(runs)), fmt.Sprintf("%.2f %% -> %s %%", dense.Mean, coded.text(1, 2)), coded.Mean <= dense.Mean+c.Goal.Points, true})
	}
	return out
}
