package train

import (
	"sync"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

// ropeTable is built for the longest sequence seen.
type ropeTable struct {
	attr model.RoPE
	rope *linalg.Rope
	n    int
}

func (t *ropeTable) upTo(n int) *linalg.Rope {
	if t.rope == nil || t.n < n {
		t.n = max(n, 2*t.n, 64)
		t.rope = linalg.NewRope(t.attr.InvFreq, t.attr.Scale, t.n)
	}
	return t.rope
}

// rope turns pairs by their position; the gradient turns back.
type rope struct {
	in, out model.ValueID
	table   ropeTable
	width   int
}

func longest(seqs []int) int {
	n := 1
	for _, v := range seqs {
		n = max(n, v)
	}
	return n
}

func (l *rope) forward(s *state) {
	x, y, r := s.values[l.in], s.value(l.out), l.table.upTo(longest(s.batch.Seqs))
	s.eachRow(l.width, func(lo, hi int) {
		copy(y[lo*l.width:hi*l.width], x[lo*l.width:hi*l.width])
		for i := lo; i < hi; i++ {
			r.Rotate(y[i*l.width:(i+1)*l.width], s.positions[i])
		}
	})
}

func (l *rope) backward(s *state) {
	dy, r := s.grad(l.out), l.table.rope
	s.eachRow(l.width, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			r.Unrotate(dy[i*l.width:(i+1)*l.width], s.positions[i])
		}
	})
	addGrad(s, l.in, dy)
}

// attention is causal grouped-query attention over the sequences of the batch. The
// probabilities are computed again in the backward pass: with P = softmax(scale Q K^T) and
// O = P V, dV = P^T dO, dP = dO V^T, dS = P * (dP - rowsum(dP*P)), dQ = scale dS K, dK = scale
// dS^T Q.
type attention struct {
	q, k, v, out model.ValueID
	shape        linalg.AttentionShape
}

func (l *attention) forward(s *state) {
	linalg.Attention(s.pool, l.shape, s.batch.Seqs, s.values[l.q], s.values[l.k], s.values[l.v], s.value(l.out))
}

// backwardRows is how many queries share one pass over the keys.
const backwardRows = 64

var attentionScratch = sync.Pool{New: func() any { return new([2][]float32) }}

func (l *attention) backward(s *state) {
	a := l.shape
	q, k, v, do := s.values[l.q], s.values[l.k], s.values[l.v], s.grad(l.out)
	dq, dk, dv := s.gradTo(l.q), s.gradTo(l.k), s.gradTo(l.v)
	group := a.Heads / a.KVHeads
	starts := make([]int, len(s.batch.Seqs))
	for i := 1; i < len(starts); i++ {
		starts[i] = starts[i-1] + s.batch.Seqs[i-1]
	}
	// A task owns one key/value head of one sequence, so that its sums have one order.
	s.pool.Run(len(starts)*a.KVHeads, func(task int) {
		start, n, kv := starts[task/a.KVHeads], s.batch.Seqs[task/a.KVHeads], task%a.KVHeads
		buf := attentionScratch.Get().(*[2][]float32)
		defer attentionScratch.Put(buf)
		size := min(backwardRows, n) * n
		buf[0], buf[1] = resize(buf[0], size), resize(buf[1], size)
		ldq, ldk, d := a.Heads*a.HeadDim, a.KVHeads*a.HeadDim, a.HeadDim
		for h := kv * group; h < (kv+1)*group; h++ {
			for i0 := 0; i0 < n; i0 += backwardRows {
				m := min(backwardRows, n-i0)
				p, first := a.Probabilities(start, i0, m, h, q, k, buf[0])
				w := i0 + m - first
				dp := buf[1][:m*w]
				qo, ko := (start+i0)*ldq+h*d, (start+first)*ldk+kv*d
				linalg.Gemm(nil, true, false, w, d, m, 1, p, w, do[qo:], ldq, 1, dv[ko:], ldk)
				linalg.Gemm(nil, false, true, m, w, d, 1, do[qo:], ldq, v[ko:], ldk, 0, dp, w)
				for i := range m {
					pr, dr := p[i*w:(i+1)*w], dp[i*w:(i+1)*w]
					dot := linalg.Dot(pr, dr)
					for j, x := range pr {
						dr[j] = x * (dr[j] - dot)
					}
				}
				linalg.Gemm(nil, false, false, m, d, w, a.Scale, dp, w, k[ko:], ldk, 1, dq[qo:], ldq)
				linalg.Gemm(nil, true, false, w, d, m, a.Scale, dp, w, q[qo:], ldq, 1, dk[ko:], ldk)
			}
		}
	})
}
