package serve

import (
	"fmt"
	"net/http"
	goruntime "runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/serve/engine"
)

// metrics are what /metrics tells: what HTTP counts itself, and, read when asked, what
// engines and sessions count. Names are documented in docs/serve.md.
type metrics struct {
	s        *Server
	reg      *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	panics   prometheus.Counter
	totals   *totals
}

// The descriptions of what is read when asked.
var (
	descRunning    = desc("requests_running", "Requests in the running batch.", "model")
	descWaiting    = desc("requests_waiting", "Requests in the queue.", "model")
	descFirst      = desc("time_to_first_token_seconds", "Time from a request's arrival at the engine to its first token.", "model")
	descInter      = desc("inter_token_seconds", "Time between tokens of a request.", "model")
	descEngine     = desc("request_engine_seconds", "Time from a request's arrival at the engine to its end, of those that finished.", "model")
	descQueue      = desc("request_queue_seconds", "Time from a request's arrival at the engine to its first step.", "model")
	descStep       = desc("step_duration_seconds", "Time of a step of the engine, or a run of a network.", "model")
	descRows       = desc("step_rows", "Rows of a step: tokens of a language model, items of a network.", "model")
	descTokens     = desc("tokens_total", "Tokens of prompts and of outputs.", "model", "kind")
	descCached     = desc("prompt_tokens_cached_total", "Tokens of prompts that were found in the prefix cache.", "model")
	descFinished   = desc("requests_finished_total", "Requests that finished, by the reason of their end.", "model", "reason")
	descCancelled  = desc("requests_cancelled_total", "Requests that were accepted and did not finish.", "model", "reason")
	descRejected   = desc("requests_rejected_total", "Requests that were not accepted.", "model", "reason")
	descPreempted  = desc("preemptions_total", "Requests that gave up their pages to others and were computed again.", "model")
	descFailures   = desc("step_failures_total", "Steps that failed; their requests got an error.", "model")
	descKV         = desc("kv_cache_usage_ratio", "Share of KV pages held by running requests: what cannot be had for new ones.", "model")
	descKVCached   = desc("kv_cache_cached_ratio", "Share of KV pages held by the prefix cache alone: they are given up when needed.", "model")
	descKVPages    = desc("kv_cache_pages", "KV pages there are.", "model")
	descWeights    = desc("weight_bytes", "Packed weights in memory.", "model", "exec", "part")
	descDense      = desc("dense_equivalent_weight_bytes", "The same weights dense in the same type.", "model")
	descRead       = desc("weight_bytes_read_total", "Bytes of weights read by kernels.", "model", "exec")
	descFLOPs      = desc("flops_total", "Floating point operations of matrix products: executed, and what dense ones would have taken.", "model", "exec", "kind")
	descOps        = desc("op_duration_seconds", "Time in kernels.", "op", "exec", "backend", "phase")
	descDispatch   = desc("dispatch_total", "Kernel calls on weights, by why the weight runs that way.", "op", "exec", "backend", "reason")
	descFallback   = desc("sparse_fallback_total", "Weights planned dense although pruned, or asked to run sparse, counted at each load.", "reason")
	descSpeedup    = desc("compare_speedup_ratio", "Sparse speed over dense, measured by shadow runs of the same tokens.", "model", "phase")
	descError      = desc("compare_max_abs_error", "Largest difference of a logit between sparse and dense in shadow runs.", "model")
	descShadow     = desc("compare_runs_total", "Shadow runs: finished, given up for a request, or skipped for want of an idle moment.", "model", "result")
	descMemory     = desc("memory_bytes", "Memory of all models, dense twins included.", "kind", "device")
	descLoad       = desc("model_load_duration_seconds", "Time that loading models took.")
	descReady      = desc("model_ready", "Whether a known model is loaded.", "model")
	descBuild      = desc("build_info", "1, with what this binary is.", "version", "goversion", "backend")
	descConns      = desc("connections", "Open connections.", "listener")
	descDropped    = desc("connections_dropped_total", "Connections closed for the limit: idle ones for new ones (evicted), new ones (refused).", "listener", "reason")
	descInFlight   = desc("http_requests_in_flight", "HTTP requests and RPCs in work.")
	descBodies     = desc("request_body_bytes", "Memory that request bodies in work hold.")
	descSparsity   = desc("model_sparsity_ratio", "Share of zeros in the weights that pruning may touch.", "model")
	descExported   = desc("spans_exported_total", "Spans that the OTLP collector took.")
	descUnexported = desc("spans_dropped_total", "Spans that did not reach the OTLP collector: the queue was full, or it did not take them (failed).", "reason")
	descParameters = desc("model_parameters", "Numbers in a model's weights.", "model")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sparserun_"+name, help, labels, nil)
}

func newMetrics(s *Server) *metrics {
	m := &metrics{s: s, reg: prometheus.NewRegistry(), totals: newTotals(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sparserun_requests_total", Help: "Requests answered, by HTTP status (gRPC codes as the status that says the same)."}, []string{"model", "endpoint", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "sparserun_request_duration_seconds", Help: "Time to answer requests, streams to their end.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300}}, []string{"model", "endpoint"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{Name: "sparserun_panics_total", Help: "Panics in handlers; their requests got an error, the server went on."}),
	}
	m.reg.MustRegister(m.requests, m.duration, m.panics, m, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if s.o.CompatVLLM {
		m.reg.MustRegister(vllm{s})
	}
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.reg, promhttp.HandlerOpts{MaxRequestsInFlight: 8})
}

func (m *metrics) request(model, endpoint string, code int, took time.Duration) {
	m.requests.WithLabelValues(model, endpoint, strconv.Itoa(code)).Inc()
	m.duration.WithLabelValues(model, endpoint).Observe(took.Seconds())
}

// Describe is prometheus.Collector: nothing is promised, as models come and go.
func (m *metrics) Describe(chan<- *prometheus.Desc) {}

// emit sends metrics of one moment.
type emit chan<- prometheus.Metric

func (e emit) gauge(d *prometheus.Desc, v float64, labels ...string) {
	e <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (e emit) counter(d *prometheus.Desc, v float64, labels ...string) {
	e <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func (e emit) histogram(d *prometheus.Desc, h engine.Histogram, labels ...string) {
	if len(h.Counts) == 0 {
		return // of the zero value: nothing of that kind is counted
	}
	buckets := make(map[float64]uint64, len(h.Bounds))
	var n uint64
	for i, b := range h.Bounds {
		n += h.Counts[i]
		buckets[b] = n
	}
	e <- prometheus.MustNewConstHistogram(d, h.Count, h.Sum, buckets, labels...)
}

// Collect is prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	e, s := emit(ch), m.s
	vs := s.views()
	var mem runtime.Memory
	for i := range vs {
		v := &vs[i]
		e.gauge(descReady, float64(one(v.loaded)), v.status.Name)
		if !v.loaded {
			continue
		}
		m.model(e, v)
		for _, c := range []*runtime.Counters{v.counters, v.twin} {
			if c != nil {
				mem.Weights = mem.Weights.Add(c.Memory.Weights)
				mem.KVCache += c.Memory.KVCache
				mem.Workspace += c.Memory.Workspace
			}
		}
	}
	// The packed weights are this process's own memory even where the file is mapped while
	// it loads: nothing stays mapped.
	for kind, n := range map[string]int64{"weights": mem.Weights.Total(), "kv": mem.KVCache, "workspace": mem.Workspace, "mmap": 0} {
		e.gauge(descMemory, float64(n), kind, s.o.Backend)
	}
	t := m.totals
	t.mu.Lock()
	sum := t.sum()
	e <- prometheus.MustNewConstSummary(descLoad, t.loads, t.loadTime.Seconds(), nil)
	for r, n := range t.fallback {
		e.counter(descFallback, float64(n), r)
	}
	t.mu.Unlock()
	for k, o := range sum.ops {
		e <- prometheus.MustNewConstSummary(descOps, o.calls, o.time.Seconds(), nil, k.op, k.exec, k.backend, k.phase)
	}
	for k, n := range sum.dispatch {
		e.counter(descDispatch, n, k.op, k.exec, k.backend, k.reason)
	}
	e.gauge(descBuild, 1, s.o.Version, goruntime.Version(), s.o.Backend)
	e.gauge(descInFlight, float64(s.inFlight.Load()))
	if s.spans != nil {
		exported, full, failed := s.spans.Stats()
		e.counter(descExported, float64(exported))
		e.counter(descUnexported, float64(full), "full")
		e.counter(descUnexported, float64(failed), "failed")
	}
	e.gauge(descBodies, float64(s.bodies.used.Load()))
	for name, g := range s.gates {
		e.gauge(descConns, float64(g.open()), name)
		e.counter(descDropped, float64(g.evicted.Load()), name, "evicted")
		e.counter(descDropped, float64(g.refused.Load()), name, "refused")
	}
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

// model emits what has a label model.
func (m *metrics) model(e emit, v *view) {
	name := v.m.Name
	running, waiting := v.waiting()
	e.gauge(descRunning, float64(running), name)
	e.gauge(descWaiting, float64(waiting), name)
	e.gauge(descSparsity, v.m.Info.Sparsity, name)
	e.gauge(descParameters, float64(v.m.Info.Parameters), name)
	for exec, b := range v.execBytes() {
		e.gauge(descWeights, float64(b.Values), name, exec, "values")
		e.gauge(descWeights, float64(b.Metadata), name, exec, "metadata")
		e.gauge(descWeights, float64(b.Scales), name, exec, "scales")
	}
	e.gauge(descDense, float64(v.m.Info.DenseWeightBytes), name)
	read, done, dense := map[string]float64{}, map[string]float64{}, map[string]float64{}
	for k, o := range v.counters.Ops {
		exec := execName(k.Layout, v.weightType())
		read[exec] += float64(o.Bytes)
		done[exec] += float64(o.FLOPs)
		dense[exec] += float64(o.DenseFLOPs)
	}
	for exec := range read {
		e.counter(descRead, read[exec], name, exec)
		e.counter(descFLOPs, done[exec], name, exec, "executed")
		e.counter(descFLOPs, dense[exec], name, exec, "dense_equivalent")
	}
	sh := v.shadow()
	if sh.PrefillTokens > 0 {
		e.gauge(descSpeedup, sh.Prefill(), name, "prefill")
	}
	if sh.DecodeTokens > 0 {
		e.gauge(descSpeedup, sh.Decode(), name, "decode")
	}
	if sh.PrefillTokens+sh.DecodeTokens > 0 {
		e.gauge(descError, sh.MaxAbsError, name)
	}
	if v.twin != nil {
		e.counter(descShadow, float64(sh.Runs), name, "finished")
		e.counter(descShadow, float64(sh.Aborted), name, "aborted")
		e.counter(descShadow, float64(sh.Skipped), name, "skipped")
	}
	if st := v.lm; st != nil {
		e.lm(name, st)
	}
	if st := v.net; st != nil {
		reasons(e, descCancelled, name, st.Cancelled)
		reasons(e, descRejected, name, st.Rejected)
		e.counter(descFailures, float64(st.Failed), name)
		e.histogram(descEngine, st.Total, name)
		e.histogram(descQueue, st.Queue, name)
		e.histogram(descStep, st.Run, name)
		e.histogram(descRows, st.Size, name)
	}
}

func (e emit) lm(name string, st *engine.Stats) {
	e.histogram(descFirst, st.First, name)
	e.histogram(descInter, st.Inter, name)
	e.histogram(descEngine, st.Total, name)
	e.histogram(descQueue, st.Queue, name)
	e.histogram(descStep, st.Step, name)
	e.histogram(descRows, st.Rows, name)
	e.counter(descTokens, float64(st.PromptTokens), name, "prompt")
	e.counter(descTokens, float64(st.OutputTokens), name, "output")
	e.counter(descCached, float64(st.CachedTokens), name)
	for r, n := range st.Finished {
		e.counter(descFinished, float64(n), name, string(r))
	}
	e.counter(descFinished, float64(st.Embeddings), name, "embedding")
	reasons(e, descCancelled, name, st.Cancelled)
	reasons(e, descRejected, name, st.Rejected)
	e.counter(descPreempted, float64(st.Preemptions), name)
	e.counter(descFailures, float64(st.Failures), name)
	e.gauge(descKV, ratio(st.PagesUsed, st.PagesTotal), name)
	e.gauge(descKVCached, ratio(st.PagesCached, st.PagesTotal), name)
	e.gauge(descKVPages, float64(st.PagesTotal), name)
}

// reasons emits a counter for every reason, and one of zero where there is none yet: a
// series that begins at its first event hides that event from rate().
func reasons(e emit, d *prometheus.Desc, name string, by map[string]uint64) {
	if len(by) == 0 {
		e.counter(d, 0, name, map[*prometheus.Desc]string{descCancelled: "client", descRejected: "full"}[d])
	}
	for r, n := range by {
		e.counter(d, float64(n), name, r)
	}
}

func ratio(a, b int) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// vllm emits the names that dashboards and autoscalers made for vLLM ask for.
type vllm struct{ s *Server }

// Describe is prometheus.Collector.
func (vllm) Describe(chan<- *prometheus.Desc) {}

// Collect is prometheus.Collector.
func (c vllm) Collect(ch chan<- prometheus.Metric) {
	e := emit(ch)
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("vllm:"+name, fmt.Sprintf("%s (vLLM's name).", help), append([]string{"model_name"}, labels...), nil)
	}
	for _, v := range c.s.views() {
		st := v.lm
		if st == nil {
			continue
		}
		n := v.m.Name
		e.gauge(d("num_requests_running", "Requests in the running batch"), float64(st.Running), n)
		e.gauge(d("num_requests_waiting", "Requests in the queue"), float64(st.Waiting), n)
		e.gauge(d("kv_cache_usage_perc", "Share of KV pages in use, 1 is all"), ratio(st.PagesUsed, st.PagesTotal), n)
		e.counter(d("num_preemptions_total", "Preemptions"), float64(st.Preemptions), n)
		e.counter(d("prompt_tokens_total", "Tokens of prompts"), float64(st.PromptTokens), n)
		e.counter(d("generation_tokens_total", "Tokens of outputs"), float64(st.OutputTokens), n)
		e.counter(d("prefix_cache_queries_total", "Tokens looked up in the prefix cache"), float64(st.PromptTokens), n)
		e.counter(d("prefix_cache_hits_total", "Tokens found in the prefix cache"), float64(st.CachedTokens), n)
		for r, k := range st.Finished {
			e.counter(d("request_success_total", "Requests that finished", "finished_reason"), float64(k), n, string(r))
		}
		e.histogram(d("time_to_first_token_seconds", "Time to the first token"), st.First, n)
		e.histogram(d("inter_token_latency_seconds", "Time between tokens"), st.Inter, n)
		e.histogram(d("e2e_request_latency_seconds", "Time of a request"), st.Total, n)
		e.histogram(d("request_queue_time_seconds", "Time in the queue"), st.Queue, n)
	}
}
