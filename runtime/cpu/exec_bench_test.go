package cpu_test

import (
	"context"
	"fmt"
	"testing"
	"time"

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
						best := map[model.Op]time.Duration{}
						for b.Loop() {
							s.ResetCounters()
							if _, err := q.Extend(ctx, tokens, logits); err != nil {
								b.Fatal(err)
							}
							q.Truncate(context)
							for k, o := range s.Counters().Ops {
								if t, ok := best[k.Op]; !ok || o.Time < t {
									best[k.Op] = o.Time
								}
							}
						}
						// The least of each op over all rounds: what other processes take is not ours.
						var all time.Duration
						for op, t := range best {
							all += t
							if testing.Verbose() {
								b.Logf("%-10s %8.1f us", op, float64(t)/1e3)
							}
						}
						b.ReportMetric(float64(len(tokens)*b.N)/b.Elapsed().Seconds(), "tokens/s")
						b.ReportMetric(float64(len(tokens))/all.Seconds(), "best-tokens/s")
						b.ReportMetric(100*(1-float64(best[model.OpLinear])/float64(all)), "%other")
					})
				}
				bench("decode", 64, prompt[64:65])
				bench("decode512", 511, prompt[511:])
				bench("prefill", 0, prompt)
			})
		}
	}
}
