package train

import (
	"fmt"
)

// Data is a set of samples.
type Data interface {
	Len() int
	// Fill makes b the batch of the given samples; it may reuse b's slices.
	Fill(b *Batch, samples []int)
	// Metric names how good a network is on it: "accuracy" or "perplexity".
	Metric() string
}

// Items are inputs of one width with a class each.
type Items struct {
	Width int
	X     []float32 // [n, Width]
	Y     []int32   // [n]
	// Logits are a teacher's answers [n, classes], or nil; see Teach.
	Logits []float32
}

// Len is the number of items.
func (d *Items) Len() int { return len(d.Y) }

// Metric is "accuracy".
func (d *Items) Metric() string { return "accuracy" }

// Fill implements Data.
func (d *Items) Fill(b *Batch, samples []int) {
	b.Rows = len(samples)
	b.X, b.Targets = resize(b.X, len(samples)*d.Width), resize(b.Targets, len(samples))
	for i, s := range samples {
		copy(b.X[i*d.Width:(i+1)*d.Width], d.X[s*d.Width:])
		b.Targets[i] = d.Y[s]
	}
	b.Teacher = b.Teacher[:0]
	if d.Logits != nil {
		classes := len(d.Logits) / len(d.Y)
		for _, s := range samples {
			b.Teacher = append(b.Teacher, d.Logits[s*classes:(s+1)*classes]...)
		}
	}
}

// Teach computes a teacher's answers to all items once, for a Distill loss without
// Options.Teacher: cheaper than a teacher that answers in every epoch, and the same to rounding.
func (d *Items) Teach(teacher *Net, batch int) error {
	if batch < 1 {
		return fmt.Errorf("train: batch of %d: %w", batch, ErrOption)
	}
	var b Batch
	logits := make([]float32, 0, len(d.Y)*teacher.Width())
	for lo := 0; lo < d.Len(); lo += batch {
		idx := make([]int, min(batch, d.Len()-lo))
		for i := range idx {
			idx[i] = lo + i
		}
		d.Fill(&b, idx)
		out, err := teacher.Forward(&b, false)
		if err != nil {
			return err
		}
		logits = append(logits, out...)
	}
	d.Logits = logits
	return nil
}

// Taught reports whether the items carry a teacher's answers.
func (d *Items) Taught() bool { return d.Logits != nil }

// Slice is items lo..hi-1, sharing memory.
func (d *Items) Slice(lo, hi int) *Items {
	s := &Items{Width: d.Width, X: d.X[lo*d.Width : hi*d.Width], Y: d.Y[lo:hi]}
	if d.Logits != nil {
		classes := len(d.Logits) / len(d.Y)
		s.Logits = d.Logits[lo*classes : hi*classes]
	}
	return s
}

// Normalise replaces x by (x - mean) / std in place.
func (d *Items) Normalise(mean, std float32) {
	for i, v := range d.X {
		d.X[i] = (v - mean) / std
	}
}

// Text is token sequences; every token but the first of a sequence is to be predicted.
type Text struct{ seqs [][]int32 }

// NewText cuts every document into windows of at most n tokens (one token of overlap, so
// that each is predicted once); what is left with fewer than two tokens is dropped.
func NewText(docs [][]int32, n int) (*Text, error) {
	if n < 2 {
		return nil, fmt.Errorf("train: window: want at least 2 tokens, got %d: %w", n, ErrOption)
	}
	t := &Text{}
	for _, d := range docs {
		for len(d) >= 2 {
			w := min(n, len(d))
			t.seqs = append(t.seqs, d[:w])
			d = d[w-1:]
		}
	}
	if len(t.seqs) == 0 {
		return nil, fmt.Errorf("train: text of %d documents has no two tokens in a row: %w", len(docs), ErrData)
	}
	return t, nil
}

// Len is the number of windows.
func (t *Text) Len() int { return len(t.seqs) }

// First is the first k sequences, or all if there are fewer.
func (t *Text) First(k int) *Text { return &Text{t.seqs[:min(k, len(t.seqs))]} }

// Tokens is the number of predicted tokens.
func (t *Text) Tokens() int {
	n := 0
	for _, s := range t.seqs {
		n += len(s) - 1
	}
	return n
}

// Metric is "perplexity".
func (t *Text) Metric() string { return "perplexity" }

// Fill implements Data. The last token of a window is a target only.
func (t *Text) Fill(b *Batch, samples []int) {
	b.Tokens, b.Targets, b.Seqs = b.Tokens[:0], b.Targets[:0], b.Seqs[:0]
	for _, s := range samples {
		seq := t.seqs[s]
		b.Tokens = append(b.Tokens, seq[:len(seq)-1]...)
		b.Targets = append(b.Targets, seq[1:]...)
		b.Seqs = append(b.Seqs, len(seq)-1)
	}
	b.Rows = len(b.Tokens)
}
