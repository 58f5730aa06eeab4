package train

import (
	"fmt"
	"math"

	"github.com/sparserun/sparserun/linalg"
)

// LossValue is the loss of a batch and what it was counted over.
type LossValue struct {
	Loss    float64 // mean over Rows of what was minimised
	NLL     float64 // mean negative log-likelihood of the targets
	Rows    int     // rows with a target
	Correct int     // of them, rows whose largest logit is the target's
}

// Loss is what training minimises.
type Loss interface {
	// value computes the mean loss of the logits [rows, classes] and, unless grad is nil,
	// its gradient.
	value(pool *linalg.Pool, logits []float32, classes int, b *Batch, grad []float32) LossValue
	check(logits, classes int, b *Batch) error
}

// CrossEntropy is the softmax cross-entropy. Smoothing e replaces the target by (1-e) of it and
// e spread over all classes.
type CrossEntropy struct{ Smoothing float32 }

// Distill mixes cross-entropy with the divergence from a teacher's distribution (Hinton et al.
// 2015): (1-Weight) * CE + Weight * T^2 * KL(teacher || student), both at temperature T.
type Distill struct {
	Temperature float32 // 0 counts as 1
	Weight      float32
}

func checkTargets(logits, classes int, b *Batch) error {
	if len(b.Targets) != b.Rows || logits != b.Rows*classes {
		return fmt.Errorf("train: %d targets of %d rows, logits of %d x %d: %w", len(b.Targets), b.Rows, logits/classes, classes, ErrData)
	}
	for i, t := range b.Targets {
		if int(t) >= classes {
			return fmt.Errorf("train: target %d: want below %d, got %d: %w", i, classes, t, ErrData)
		}
	}
	return nil
}

func (CrossEntropy) check(logits, classes int, b *Batch) error {
	return checkTargets(logits, classes, b)
}

func (Distill) check(logits, classes int, b *Batch) error {
	if len(b.Teacher) != logits {
		return fmt.Errorf("train: teacher: want %d logits, got %d: %w", logits, len(b.Teacher), ErrData)
	}
	return checkTargets(logits, classes, b)
}

func (l CrossEntropy) value(pool *linalg.Pool, logits []float32, classes int, b *Batch, grad []float32) LossValue {
	return eachTarget(pool, logits, classes, b, grad, func(x, g []float32, target int, scale float32, _ int) (loss, nll float64) {
		nll = logSoftmax(g, x, 1) - float64(x[target])
		loss = nll
		if e := l.Smoothing; e != 0 {
			var sum float64
			for _, v := range x {
				sum += float64(v)
			}
			// nll = log Z - x[target]; its mean over classes is log Z - mean x.
			loss = float64(1-e)*nll + float64(e)*(nll+float64(x[target])-sum/float64(classes))
		}
		off := l.Smoothing / float32(classes)
		for j := range g {
			g[j] = scale * (g[j] - off)
		}
		g[target] -= scale * (1 - l.Smoothing)
		return loss, nll
	})
}

func (l Distill) value(pool *linalg.Pool, logits []float32, classes int, b *Batch, grad []float32) LossValue {
	t := l.Temperature
	if t == 0 {
		t = 1
	}
	return eachTarget(pool, logits, classes, b, grad, func(x, g []float32, target int, scale float32, row int) (loss, nll float64) {
		teacher := b.Teacher[row*classes : (row+1)*classes]
		q := make([]float32, classes)
		p := make([]float32, classes)
		zq := logSoftmax(q, teacher, 1/t)
		zp := logSoftmax(p, x, 1/t)
		var kl float64
		for j, v := range q {
			if v > 0 {
				kl += float64(v) * ((float64(teacher[j])-float64(x[j]))/float64(t) - zq + zp)
			}
		}
		nll = logSoftmax(g, x, 1) - float64(x[target])
		g[target]--
		for j := range g {
			g[j] = scale * ((1-l.Weight)*g[j] + l.Weight*t*(p[j]-q[j]))
		}
		return float64(1-l.Weight)*nll + float64(l.Weight*t*t)*kl, nll
	})
}

// logSoftmax: dst = softmax(scale*x); returns the logarithm of the sum of exp(scale*x).
func logSoftmax(dst, x []float32, scale float32) float64 {
	linalg.Scale(dst, scale, x)
	top := linalg.Max(dst)
	s := linalg.ExpSum(dst, dst, top)
	linalg.Scale(dst, 1/s, dst)
	return float64(top) + math.Log(float64(s))
}

// eachTarget runs f for every row with a target: f turns g into the gradient times scale. Rows
// without one have gradient zero. Sums are taken in the order of rows.
func eachTarget(pool *linalg.Pool, logits []float32, classes int, b *Batch, grad []float32, f func(x, g []float32, target int, scale float32, row int) (loss, nll float64)) LossValue {
	var out LossValue
	for _, t := range b.Targets {
		if t >= 0 {
			out.Rows++
		}
	}
	scale := 1 / float32(max(1, out.Rows))
	per := make([][2]float64, b.Rows)
	hit := make([]bool, b.Rows)
	pool.Split(b.Rows, 1, func(lo, hi int) {
		spare := make([]float32, classes)
		for i := lo; i < hi; i++ {
			x, g := logits[i*classes:(i+1)*classes], spare
			if grad != nil {
				g = grad[i*classes : (i+1)*classes]
			}
			t := int(b.Targets[i])
			if t < 0 {
				clear(g)
				continue
			}
			best := 0
			for j, v := range x {
				if v > x[best] {
					best = j
				}
			}
			hit[i] = best == t
			per[i][0], per[i][1] = f(x, g, t, scale, i)
		}
	})
	for i, v := range per {
		out.Loss, out.NLL = out.Loss+v[0], out.NLL+v[1]
		if hit[i] {
			out.Correct++
		}
	}
	n := float64(max(1, out.Rows))
	out.Loss, out.NLL = out.Loss/n, out.NLL/n
	return out
}
