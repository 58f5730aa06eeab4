package engine

import (
	"math"
	"slices"
)

// logSum is the logarithm of the sum of exp(logits): a token's log-probability is its
// logit less that.
func logSum(logits []float32) float64 {
	top := float32(math.Inf(-1))
	for _, l := range logits {
		top = max(top, l)
	}
	if math.IsInf(float64(top), -1) {
		return math.Inf(-1)
	}
	var sum float64
	for _, l := range logits {
		if d := l - top; d > -40 { // less adds nothing, even a million times
			sum += math.Exp(float64(d))
		}
	}
	return float64(top) + math.Log(sum)
}

// likeliest are the n tokens of the largest logits, in order, ties by id.
func likeliest(logits []float32, n int, sum float64) []Logprob {
	n = min(n, len(logits))
	if n == 0 {
		return nil
	}
	top := make([]Logprob, 0, n) // logits for now; the last is the least
	for id, l := range logits {
		if len(top) == n && l <= top[n-1].Logprob {
			continue
		}
		at, _ := slices.BinarySearchFunc(top, l, func(e Logprob, l float32) int {
			if e.Logprob >= l {
				return -1
			}
			return 1
		})
		if len(top) < n {
			top = append(top, Logprob{})
		}
		copy(top[at+1:], top[at:])
		top[at] = Logprob{int32(id), l}
	}
	for i := range top {
		top[i].Logprob = float32(float64(top[i].Logprob) - sum)
	}
	return top
}
