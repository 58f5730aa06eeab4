package serve

import (
	"context"
	"net/http"
	"path/filepath"
	"time"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/serve/engine"
)

// statsJSON is GET /api/stats: what the page shows. Keys are documented in docs/serve.md.
type statsJSON struct {
	Version   string      `json:"version"`
	Backend   string      `json:"backend"`
	Now       float64     `json:"now"` // Unix, s
	Uptime    float64     `json:"uptime_seconds"`
	State     string      `json:"state"` // loading, ready, draining
	RSS       int64       `json:"rss_bytes"`
	Limit     int64       `json:"memory_limit_bytes"`
	InFlight  int64       `json:"in_flight"`
	Conns     int         `json:"connections"`
	Models    []modelJSON `json:"models"`
	GRPC      string      `json:"grpc_addr,omitempty"`
	KeysAsked bool        `json:"keys_asked"`
}

type modelJSON struct {
	Name     string  `json:"name"`
	State    string  `json:"state"`
	Reason   string  `json:"reason,omitempty"`
	Kind     string  `json:"kind,omitempty"` // language, network
	File     string  `json:"file,omitempty"`
	Format   string  `json:"format,omitempty"`
	Arch     string  `json:"arch,omitempty"`
	DType    string  `json:"dtype,omitempty"`
	Params   int64   `json:"parameters,omitempty"`
	Sparsity float64 `json:"sparsity"`
	Loaded   float64 `json:"loaded,omitempty"` // Unix, s
	LoadTime float64 `json:"load_seconds,omitempty"`
	Context  int     `json:"context,omitempty"`

	Running int          `json:"running"`
	Waiting int          `json:"waiting"`
	Totals  *totalsJSON  `json:"totals,omitempty"`
	Latency *latencyJSON `json:"latency,omitempty"`
	Memory  *memoryJSON  `json:"memory,omitempty"`
	KV      *kvJSON      `json:"kv,omitempty"`
	Compare *compareJSON `json:"compare,omitempty"`
	Phases  []phaseJSON  `json:"phases,omitempty"`
	Layouts []layoutJSON `json:"layouts,omitempty"`
	Layers  []*layerJSON `json:"layers,omitempty"`  // with ?layers=1
	History []sample     `json:"history,omitempty"` // with ?history=1, else the last
}

type totalsJSON struct {
	Accepted  uint64            `json:"accepted"`
	Finished  uint64            `json:"finished"`
	Cancelled map[string]uint64 `json:"cancelled"`
	Rejected  map[string]uint64 `json:"rejected"`
	Preempted uint64            `json:"preemptions"`
	Prompt    uint64            `json:"prompt_tokens"`
	Cached    uint64            `json:"cached_tokens"`
	Output    uint64            `json:"output_tokens"`
	Items     uint64            `json:"items"`
	Steps     uint64            `json:"steps"`
	Rows      float64           `json:"rows_per_step"`
}

type latencyJSON struct {
	First *histogramJSON `json:"time_to_first_token,omitempty"`
	Inter *histogramJSON `json:"inter_token,omitempty"`
	Total *histogramJSON `json:"total"`
	Queue *histogramJSON `json:"queue"`
}

type histogramJSON struct {
	Bounds []float64 `json:"bounds"` // s
	Counts []uint64  `json:"counts"` // one more
	Count  uint64    `json:"count"`
	Sum    float64   `json:"sum"`
	P50    float64   `json:"p50"` // interpolated
	P95    float64   `json:"p95"`
	P99    float64   `json:"p99"`
}

type memoryJSON struct {
	Values    int64 `json:"values"`
	Metadata  int64 `json:"metadata"`
	Scales    int64 `json:"scales"`
	KV        int64 `json:"kv"`
	KVUsed    int64 `json:"kv_used"`   // by running requests
	KVCached  int64 `json:"kv_cached"` // by the prefix cache alone
	Workspace int64 `json:"workspace"`
	Dense     int64 `json:"dense_weights"` // what the weights would be dense
	Twin      int64 `json:"dense_twin"`    // what the dense twin holds, 0 without one
}

type kvJSON struct {
	PageTokens int `json:"page_tokens"`
	Total      int `json:"pages_total"`
	Used       int `json:"pages_used"`
	Cached     int `json:"pages_cached"`
}

// compareJSON is dense beside sparse, measured by shadow runs; the rates and ratios are
// null before the first.
type compareJSON struct {
	Twin          bool     `json:"twin"` // there is a dense twin
	Runs          uint64   `json:"runs"`
	Tokens        uint64   `json:"tokens"`
	Prefill       *float64 `json:"prefill_ratio"`
	Decode        *float64 `json:"decode_ratio"`
	DensePrefill  *float64 `json:"dense_prefill_tokens_per_s"`
	SparsePrefill *float64 `json:"sparse_prefill_tokens_per_s"`
	DenseDecode   *float64 `json:"dense_decode_tokens_per_s"`
	SparseDecode  *float64 `json:"sparse_decode_tokens_per_s"`
	MaxAbsError   *float64 `json:"max_abs_error"`
	Flips         uint64   `json:"flips"`
}

type phaseJSON struct {
	Phase      string  `json:"phase"`
	Tokens     int64   `json:"tokens"`
	Seconds    float64 `json:"seconds"`
	Rate       float64 `json:"tokens_per_s"`
	Bytes      int64   `json:"weight_bytes_read"`
	DenseBytes int64   `json:"dense_weight_bytes_read"`
	FLOPs      int64   `json:"flops"`
	DenseFLOPs int64   `json:"dense_flops"`
}

type layoutJSON struct {
	Exec    string `json:"exec"`
	Weights int    `json:"weights"`
	Bytes   int64  `json:"bytes"`
}

type layerJSON struct {
	Name     string  `json:"name"`
	Rows     int     `json:"rows"`
	Cols     int     `json:"cols"`
	Sparsity float64 `json:"sparsity"`
	Layout   string  `json:"layout"`
	DType    string  `json:"dtype"`
	Bytes    int64   `json:"bytes"`
	Reason   string  `json:"reason"`
}

// run takes a sample a second.
func (h *history) run(ctx context.Context, s *Server) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	h.add(s.views(), time.Now())
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			h.add(s.views(), now)
		}
	}
}

func (s *Server) serveStats(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, s.stats(q.Get("layers") == "1", q.Get("history") == "1"))
}

func (s *Server) stats(layers, past bool) *statsJSON {
	now := time.Now()
	out := &statsJSON{Version: s.o.Version, Backend: s.o.Backend, Now: unix(now), Uptime: now.Sub(s.started).Seconds(), State: "ready",
		InFlight: s.inFlight.Load(), Conns: s.gates["http"].open(), GRPC: s.GRPCAddr(), KeysAsked: s.o.Keys != nil, Limit: s.o.MemoryLimit, Models: []modelJSON{}}
	out.RSS, _ = runtime.RSS()
	switch {
	case s.draining.Load():
		out.State = "draining"
	case !s.ready.Load():
		out.State = "loading"
	}
	vs := s.views()
	for i := range vs {
		m := vs[i].json(layers)
		m.History = s.samples.of(m.Name)
		if n := len(m.History); !past && n > 1 {
			m.History = m.History[n-1:]
		}
		out.Models = append(out.Models, m)
	}
	return out
}

func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func (v *view) json(layers bool) modelJSON {
	m := modelJSON{Name: v.status.Name, State: string(v.status.State), Reason: v.status.Reason}
	if !v.loaded {
		return m
	}
	m.Kind, m.File, m.Format, m.Arch = "network", filepath.Base(v.m.Path), v.m.Info.Format, v.m.Info.Arch
	m.DType, m.Params, m.Sparsity = v.weightType().String(), v.m.Info.Parameters, v.m.Info.Sparsity
	m.Loaded, m.LoadTime = unix(v.m.Loaded), v.m.LoadTime.Seconds()
	m.Running, m.Waiting = v.waiting()
	mem := v.counters.Memory
	m.Memory = &memoryJSON{Values: mem.Weights.Values, Metadata: mem.Weights.Metadata, Scales: mem.Weights.Scales,
		KV: mem.KVCache, Workspace: mem.Workspace, Dense: v.m.Info.DenseWeightBytes}
	if v.twin != nil {
		m.Memory.Twin = v.twin.Memory.Weights.Total() + v.twin.Memory.KVCache + v.twin.Memory.Workspace
	}
	m.Compare = v.compare()
	for p := runtime.Prefill; p <= runtime.Decode; p++ {
		t := v.counters.Total(p)
		m.Phases = append(m.Phases, phaseJSON{p.String(), v.counters.Tokens[p], v.counters.Time[p].Seconds(), v.counters.TokensPerSecond(p), t.Bytes, t.DenseBytes, t.FLOPs, t.DenseFLOPs})
	}
	byExec := map[string]int{}
	for _, c := range v.choices {
		exec := execName(c.Kernel.Layout, v.weightType())
		i, ok := byExec[exec]
		if !ok {
			i = len(m.Layouts)
			byExec[exec] = i
			m.Layouts = append(m.Layouts, layoutJSON{Exec: exec})
		}
		m.Layouts[i].Weights++
		m.Layouts[i].Bytes += c.Bytes
		if layers {
			m.Layers = append(m.Layers, &layerJSON{c.Name, c.Rows, c.Cols, c.Sparsity, c.Layout, c.DType, c.Bytes, c.Reason})
		}
	}
	switch {
	case v.lm != nil:
		v.language(&m)
	case v.net != nil:
		v.network(&m)
	}
	return m
}

func (v *view) language(m *modelJSON) {
	st := v.lm
	m.Kind, m.Context = "language", st.PagesTotal*st.PageTokens
	m.KV = &kvJSON{st.PageTokens, st.PagesTotal, st.PagesUsed, st.PagesCached}
	m.Memory.KVUsed, m.Memory.KVCached = int64(st.PagesUsed)*v.pageBytes(), int64(st.PagesCached)*v.pageBytes()
	m.Totals = &totalsJSON{Accepted: st.Accepted, Cancelled: st.Cancelled, Rejected: st.Rejected, Preempted: st.Preemptions,
		Prompt: st.PromptTokens, Cached: st.CachedTokens, Output: st.OutputTokens, Steps: st.Steps}
	m.Totals.Finished = st.Embeddings
	for _, n := range st.Finished {
		m.Totals.Finished += n
	}
	if st.Rows.Count > 0 {
		m.Totals.Rows = st.Rows.Sum / float64(st.Rows.Count)
	}
	m.Latency = &latencyJSON{histogram(st.First), histogram(st.Inter), histogram(st.Total), histogram(st.Queue)}
}

func (v *view) network(m *modelJSON) {
	st := v.net
	m.Totals = &totalsJSON{Accepted: st.Accepted, Finished: st.Served, Cancelled: st.Cancelled, Rejected: st.Rejected, Items: st.Items, Steps: st.Batches}
	if st.Batches > 0 {
		m.Totals.Rows = float64(st.Items) / float64(st.Batches)
	}
	m.Latency = &latencyJSON{Total: histogram(st.Total), Queue: histogram(st.Queue)}
}

func (v *view) compare() *compareJSON {
	sh := v.shadow()
	c := &compareJSON{Twin: v.twin != nil, Runs: sh.Runs, Tokens: sh.PrefillTokens + sh.DecodeTokens, Flips: sh.Flips}
	rate := func(n uint64, d time.Duration) *float64 {
		if n == 0 || d <= 0 {
			return nil
		}
		r := float64(n) / d.Seconds()
		return &r
	}
	c.DensePrefill, c.SparsePrefill = rate(sh.PrefillTokens, sh.DensePrefill), rate(sh.PrefillTokens, sh.SparsePrefill)
	c.DenseDecode, c.SparseDecode = rate(sh.DecodeTokens, sh.DenseDecode), rate(sh.DecodeTokens, sh.SparseDecode)
	if sh.PrefillTokens > 0 {
		r := sh.Prefill()
		c.Prefill = &r
	}
	if sh.DecodeTokens > 0 {
		r := sh.Decode()
		c.Decode = &r
	}
	if c.Tokens > 0 {
		c.MaxAbsError = &sh.MaxAbsError
	}
	return c
}

func histogram(h engine.Histogram) *histogramJSON {
	return &histogramJSON{h.Bounds, h.Counts, h.Count, h.Sum, quantile(h, .5), quantile(h, .95), quantile(h, .99)}
}

// quantile interpolates within the bucket, as PromQL's histogram_quantile does; what lies
// beyond the last bound is given as that bound.
func quantile(h engine.Histogram, q float64) float64 {
	if h.Count == 0 || len(h.Bounds) == 0 {
		return 0
	}
	rank, seen, low := q*float64(h.Count), 0.0, 0.0
	for i, b := range h.Bounds {
		n := float64(h.Counts[i])
		if seen+n >= rank && n > 0 {
			return low + (b-low)*(rank-seen)/n
		}
		seen, low = seen+n, b
	}
	return low
}
