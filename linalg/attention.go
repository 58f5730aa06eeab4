package linalg

import "sync"

// AttentionShape is the geometry of causal grouped-query attention.
type AttentionShape struct {
	Heads, KVHeads, HeadDim int     // Heads is a multiple of KVHeads
	Scale                   float32 // of q*k before the softmax, > 0
	Window                  int     // a row sees the last Window rows, itself included; 0: all
}

// attentionRows is how many queries share one pass over the keys.
const attentionRows = 64

var scorePool = sync.Pool{New: func() any { return new([]float32) }}

// Attention is the prefill of whole sequences: row i of a sequence attends to its rows
// 0..i. seqs are the lengths of the sequences, whose rows follow each other in q
// [rows, Heads*HeadDim], k and v [rows, KVHeads*HeadDim] and out [rows, Heads*HeadDim]; all
// are dense. out may not overlap the others.
func Attention(p *Pool, s AttentionShape, seqs []int, q, k, v, out []float32) {
	type job struct{ start, length, head int }
	var jobs []job
	row := 0
	for _, n := range seqs {
		for h := range s.Heads {
			jobs = append(jobs, job{row, n, h})
		}
		row += n
	}
	p.Run(len(jobs), func(i int) {
		j := jobs[i]
		buf := scorePool.Get().(*[]float32)
		*buf = grow(*buf, min(attentionRows, j.length)*j.length)
		for i0 := 0; i0 < j.length; i0 += attentionRows {
			n := min(attentionRows, j.length-i0)
			p, lo := s.Probabilities(j.start, i0, n, j.head, q, k, *buf)
			ldq, ldk := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
			o := (j.start+i0)*ldq + j.head*s.HeadDim
			kv := (j.start+lo)*ldk + j.head/(s.Heads/s.KVHeads)*s.HeadDim
			w := i0 + n - lo
			Gemm(nil, false, false, n, s.HeadDim, w, 1, p, w, v[kv:], ldk, 0, out[o:], ldq)
		}
		scorePool.Put(buf)
	})
}

// Probabilities computes the softmax of n queries (rows i0... of the sequence that starts at
// row start) of one head over keys lo..i0+n-1 of their sequence, into buf: a matrix [n, i0+n-lo]
// with zeros where a row does not attend. lo is 0 but for windows.
func (s AttentionShape) Probabilities(start, i0, n, head int, q, k, buf []float32) (p []float32, lo int) {
	if s.Window > 0 {
		lo = max(0, i0-s.Window+1)
	}
	ldq, ldk := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	w := i0 + n - lo
	p = buf[:n*w]
	kv := (start+lo)*ldk + head/(s.Heads/s.KVHeads)*s.HeadDim
	Gemm(nil, false, true, n, w, s.HeadDim, 1, q[(start+i0)*ldq+head*s.HeadDim:], ldq, k[kv:], ldk, 0, p, w)
	for i := range n {
		r := p[i*w : (i+1)*w]
		first, end := 0, i0+i+1-lo
		if s.Window > 0 {
			first = max(0, end-s.Window)
		}
		clear(r[:first])
		clear(r[end:])
		Softmax(r[first:end], r[first:end], s.Scale)
	}
	return p, lo
}
