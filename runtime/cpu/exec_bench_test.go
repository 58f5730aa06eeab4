package cpu_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

// BenchmarkModel times the real model: one token after a context of 64, and a prompt
// of 512. Beside the time of a token stands the share of everything but Linear.
func BenchmarkModel(b *testing.B) {
	path := testenv.Model(b)
	for _, dtype := range []sparse.DType{sparse.F32, sparse.F16, sparse.Int8, sparse.Int4} {
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%v/%dT", dtype, threads), func(b *testing.B) {
				s := session(b, path, threads, runtime.WithDType(dtype), runtime.WithContext(1024))
				prompt := make([]int32, 512)
				for i := range prompt {
					prompt[i] = int32(1000 + 37*i)
				}
				ctx := context.Background()
				logits := make([]float32, s.Graph().Config.Vocab)
				bench := func(name string, context int, tokens []int32) {
					b.Run(name, func(b *testing.B) {
						q := s.NewSequence()
						defer q.Close()
						if context > 0 {
							if _, err := q.Extend(ctx, prompt[:context], logits); err != nil {
								b.Fatal(err)
							}
						}
						s.ResetCounters()
						for b.Loop() {
							if _, err := q.Extend(ctx, tokens, logits); err != nil {
								b.Fatal(err)
							}
							q.Truncate(context)
						}
						c := s.Counters()
						var all, linear float64
						for k, o := range c.Ops {
							all += float64(o.Time)
							if k.Op == model.OpLinear {
								linear += float64(o.Time)
							}
						}
						b.ReportMetric(float64(len(tokens)*b.N)/b.Elapsed().Seconds(), "tokens/s")
						b.ReportMetric(100*(1-linear/float64(b.Elapsed())), "%other")
						if testing.Verbose() {
							for k, o := range c.Ops {
								b.Logf("%-12s %8.1f us a step, %d calls", k.Op, float64(o.Time.Microseconds())/float64(b.N), o.Calls/int64(b.N))
							}
						}
					})
				}
				bench("decode", 64, prompt[64:65])
				bench("decode512", 511, prompt[511:])
				bench("prefill", 0, prompt)
			})
		}
	}
}
