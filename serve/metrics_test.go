package serve

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/sparse"
)

// promised are the metrics of the reference, with their types and labels. Dashboards and
// autoscalers are written against them: they change with a major version only.
var promised = map[string]string{
	"sparserun_requests_total":                "counter code endpoint model",
	"sparserun_requests_running":              "gauge model",
	"sparserun_requests_waiting":              "gauge model",
	"sparserun_request_duration_seconds":      "histogram endpoint model",
	"sparserun_time_to_first_token_seconds":   "histogram model",
	"sparserun_inter_token_seconds":           "histogram model",
	"sparserun_tokens_total":                  "counter kind model",
	"sparserun_kv_cache_usage_ratio":          "gauge model",
	"sparserun_requests_cancelled_total":      "counter model reason",
	"sparserun_weight_bytes":                  "gauge exec model part",
	"sparserun_dense_equivalent_weight_bytes": "gauge model",
	"sparserun_weight_bytes_read_total":       "counter exec model",
	"sparserun_flops_total":                   "counter exec kind model",
	"sparserun_op_duration_seconds":           "summary backend exec op phase",
	"sparserun_dispatch_total":                "counter backend exec op reason",
	"sparserun_sparse_fallback_total":         "counter reason",
	"sparserun_compare_speedup_ratio":         "gauge model phase",
	"sparserun_compare_max_abs_error":         "gauge model",
	"sparserun_memory_bytes":                  "gauge device kind",
	"sparserun_model_load_duration_seconds":   "summary ",
	"sparserun_build_info":                    "gauge backend goversion version",
}

// shape reads types and labels from a page of metrics.
func shape(page string) map[string]string {
	out, kinds := map[string]string{}, map[string]string{}
	label := regexp.MustCompile(`([a-z_]+)="`)
	for _, line := range strings.Split(page, "\n") {
		f := strings.Fields(line)
		if strings.HasPrefix(line, "# TYPE ") {
			kinds[f[2]] = f[3]
			continue
		}
		if len(f) < 2 || f[0] == "#" {
			continue
		}
		name, labels, _ := strings.Cut(f[0], "{")
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base := strings.TrimSuffix(name, suffix); kinds[base] == "histogram" || kinds[base] == "summary" {
				name = base
			}
		}
		var ls []string
		for _, m := range label.FindAllStringSubmatch(labels, -1) {
			if m[1] != "le" {
				ls = append(ls, m[1])
			}
		}
		slices.Sort(ls)
		out[name] = kinds[name] + " " + strings.Join(ls, " ")
	}
	return out
}

func TestMetrics(t *testing.T) {
	spec := story(t)
	spec.Shadow, spec.Sparse, spec.Layout = 1, runtime.SparseForce, sparse.LayoutBitmask // a dense twin is there only beside sparse forms
	h := start(t, Options{GRPCAddr: "127.0.0.1:0"}, spec)
	r := h.stream(t.Context(), 30, nil)
	require.True(t, r.done)
	h.do("POST", "/v1/completions", `{"model":"nobody","prompt":"x"}`)
	var page string
	require.Eventually(t, func() bool { // a shadow run takes an idle moment
		_, page, _ = h.get("/metrics")
		return strings.Contains(page, `sparserun_compare_speedup_ratio{model="story",phase="decode"}`)
	}, 20*time.Second, 50*time.Millisecond)
	got := shape(page)
	for name, want := range promised {
		require.Equal(t, want, got[name], name)
	}
	problems, err := promlint.New(strings.NewReader(page)).Lint()
	require.NoError(t, err)
	require.Empty(t, problems)

	m, release, err := h.reg.Acquire("story")
	require.NoError(t, err)
	defer release()
	for _, line := range []string{
		`sparserun_requests_total{code="200",endpoint="/v1/completions",model="story"} 1`,
		`sparserun_requests_total{code="404",endpoint="/v1/completions",model=""} 1`,
		`sparserun_tokens_total{kind="output",model="story"} 30`,
		`sparserun_tokens_total{kind="prompt",model="story"} 5`,
		`sparserun_time_to_first_token_seconds_bucket{model="story",le="+Inf"} 1`,
		`sparserun_inter_token_seconds_count{model="story"} 29`,
		`sparserun_requests_cancelled_total{model="story",reason="client"} 0`,
		`sparserun_model_ready{model="story"} 1`,
		fmt.Sprintf(`sparserun_dense_equivalent_weight_bytes{model="story"} %v`, m.Info.DenseWeightBytes),
		`sparserun_sparse_fallback_total{reason="not_24"} 0`,
		`sparserun_kv_cache_pages{model="story"} 16`,
	} {
		require.Contains(t, page, line+"\n")
	}
	require.NotContains(t, page, "vllm:")
	// What is packed is what the parts add up to.
	var sum float64
	for _, x := range regexp.MustCompile(`sparserun_weight_bytes\{.*\} (\S+)`).FindAllStringSubmatch(page, -1) {
		var v float64
		fmt.Sscan(x[1], &v)
		sum += v
	}
	require.Equal(t, float64(m.Info.WeightBytes.Total()), sum)
}

// TestEmbeddingsFinish: what is accepted and answered counts as finished, a vector too.
func TestEmbeddingsFinish(t *testing.T) {
	h := start(t, Options{}, story(t))
	status, body, _ := h.do("POST", "/v1/embeddings", `{"model":"story","input":["one","two"]}`)
	require.Equal(t, http.StatusOK, status, body)
	_, page, _ := h.get("/metrics")
	require.Contains(t, page, `sparserun_requests_finished_total{model="story",reason="embedding"} 2`+"\n")
	_, text, _ := h.get("/api/stats")
	var st struct {
		Models []struct {
			Totals struct{ Accepted, Finished int }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(text), &st))
	require.Equal(t, 2, st.Models[0].Totals.Accepted)
	require.Equal(t, 2, st.Models[0].Totals.Finished)
}

// TestUnlabelledCounters: what has no label model does not fall when a model goes.
func TestUnlabelledCounters(t *testing.T) {
	h := start(t, Options{}, story(t))
	value := func(prefix string) (v float64) {
		_, page, _ := h.get("/metrics")
		for _, line := range strings.Split(page, "\n") {
			if strings.HasPrefix(line, prefix) {
				var x float64
				fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &x)
				v += x
			}
		}
		return v
	}
	h.stream(t.Context(), 20, nil)
	h.idle()
	calls, loads := value(`sparserun_op_duration_seconds_count{backend="cpu",exec="dense",op="Linear"`), value("sparserun_model_load_duration_seconds_count")
	dispatched := value(`sparserun_dispatch_total{backend="cpu",exec="dense",op="Linear"`)
	require.NotZero(t, calls)
	require.InEpsilon(t, calls, dispatched, 1e-9, "every call has a reason")
	require.Equal(t, 1.0, loads)
	require.NoError(t, h.reg.Unload(t.Context(), "story"))
	require.GreaterOrEqual(t, value(`sparserun_op_duration_seconds_count{backend="cpu",exec="dense",op="Linear"`), calls)
	require.NoError(t, h.reg.Reload(t.Context(), "story"))
	require.GreaterOrEqual(t, value(`sparserun_op_duration_seconds_count{backend="cpu",exec="dense",op="Linear"`), calls)
	require.Equal(t, 2.0, value("sparserun_model_load_duration_seconds_count"))
}

func TestVLLMNames(t *testing.T) {
	h := start(t, Options{CompatVLLM: true}, story(t))
	h.stream(t.Context(), 10, nil)
	_, page, _ := h.get("/metrics")
	for _, name := range []string{"num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions_total", "prompt_tokens_total", "generation_tokens_total",
		"prefix_cache_queries_total", "prefix_cache_hits_total", "request_success_total", "time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"} {
		require.Contains(t, page, "\n# TYPE vllm:"+name+" ", name)
	}
	require.Contains(t, page, `vllm:generation_tokens_total{model_name="story"} 10`)
}

func TestChoiceReason(t *testing.T) {
	choice := func(l sparse.Layout, zeros float64, candidates int) *runtime.Choice {
		return &runtime.Choice{Kernel: runtime.Kernel{Op: "Linear", Layout: l}, Sparsity: zeros, Candidates: make([]runtime.Candidate, candidates)}
	}
	auto, off := &runtime.Options{}, &runtime.Options{Sparse: runtime.SparseOff}
	force := func(l sparse.Layout) *runtime.Options {
		return &runtime.Options{Sparse: runtime.SparseForce, Layout: l}
	}
	for _, c := range []struct {
		c    *runtime.Choice
		o    *runtime.Options
		want string
		fell bool
	}{
		{choice(sparse.LayoutDense, 0, 0), auto, "few_zeros", false},
		{choice(sparse.LayoutNM24, .5, 2), auto, "measured", false},
		{choice(sparse.LayoutNM24, .5, 0), auto, "unmeasured", false},
		{choice(sparse.LayoutDense, .5, 2), auto, "slower", true},
		{choice(sparse.LayoutDense, .5, 0), auto, "arch", true},
		{choice(sparse.LayoutDense, .5, 0), off, "disabled", true},
		{choice(sparse.LayoutDense, 0, 0), off, "disabled", false},
		{choice(sparse.LayoutNM24, .5, 0), force(sparse.LayoutNM24), "asked", false},
		{choice(sparse.LayoutDense, .5, 0), force(sparse.LayoutNM24), "not_24", true},
		{choice(sparse.LayoutDense, .5, 0), force(sparse.LayoutCSR), "shape", true},
		{&runtime.Choice{Kernel: runtime.Kernel{Op: "Embedding"}}, auto, "lookup", false},
	} {
		got, fell := choiceReason(c.c, c.o)
		require.Equal(t, c.want, got)
		require.Equal(t, c.fell, fell, c.want)
	}
	require.Equal(t, "int4_nm24", execName(sparse.LayoutNM24, sparse.Int4))
	require.Equal(t, "nm24", execName(sparse.LayoutNM24, sparse.Int8))
	require.Equal(t, "bitmap", execName(sparse.LayoutBitmask, sparse.Int4))
	require.Equal(t, "dense", execName(sparse.LayoutDense, sparse.Int4))
}

func TestQuantile(t *testing.T) {
	h := engine.Histogram{Bounds: []float64{1, 2, 4}, Counts: []uint64{2, 2, 0, 0}, Count: 4}
	require.Equal(t, 1.0, quantile(h, .5))
	require.Equal(t, 0.5, quantile(h, .25))
	require.Equal(t, 2.0, quantile(h, 1))
	require.Zero(t, quantile(engine.Histogram{}, .5))
	require.Equal(t, 4.0, quantile(engine.Histogram{Bounds: []float64{1, 2, 4}, Counts: []uint64{0, 0, 0, 9}, Count: 9}, .5))
}

// TestStats holds /api/stats to what docs/serve.md says of it.
func TestStats(t *testing.T) {
	h := start(t, Options{}, story(t))
	h.stream(t.Context(), 30, nil)
	h.idle()
	status, body, head := h.get("/api/stats?layers=1&history=1")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "no-store", head.Get("Cache-Control"))
	var s statsJSON
	d := json.NewDecoder(strings.NewReader(body))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&s))
	require.Equal(t, "ready", s.State)
	require.Positive(t, s.RSS)
	require.Len(t, s.Models, 1)
	m := s.Models[0]
	require.Equal(t, "language", m.Kind)
	require.Equal(t, "int8", m.DType)
	require.EqualValues(t, 260032, m.Params)
	require.EqualValues(t, 30, m.Totals.Output)
	require.EqualValues(t, 1, m.Totals.Finished)
	require.EqualValues(t, 29, m.Latency.Inter.Count)
	require.Positive(t, m.Memory.Values)
	require.Positive(t, m.Memory.Dense)
	require.False(t, m.Compare.Twin)
	require.Nil(t, m.Compare.Decode, "not measured")
	require.NotEmpty(t, m.Layers)
	var bytes int64
	for _, l := range m.Layers {
		require.NotEmpty(t, l.Reason, l.Name)
		bytes += l.Bytes
	}
	require.Equal(t, m.Layouts[0].Bytes, bytes)
	require.Contains(t, body, `"decode_ratio":null`)
	require.NotContains(t, body, story(t).Path, "no path of this machine")
	_, body, _ = h.get("/api/stats")
	require.NotContains(t, body, `"layers"`)
	require.Less(t, len(body), 8<<10, "what is polled each second stays small")
}

func TestHistory(t *testing.T) {
	var hist history
	at := time.Unix(1000, 0)
	v := view{loaded: true, lm: &engine.Stats{}, counters: &runtime.Counters{}}
	v.status.Name, v.m.Name, v.m.Loaded = "m", "m", at
	for i := range historyLength + 10 {
		v.lm.OutputTokens = uint64(50 * i)
		hist.add([]view{v}, at.Add(time.Duration(i)*500*time.Millisecond))
	}
	got := hist.of("m")
	require.Len(t, got, historyLength)
	require.Equal(t, 100.0, got[len(got)-1].Output)
	v.m.Loaded = at.Add(time.Hour) // swapped: its counts begin anew, which is no negative rate
	v.lm = &engine.Stats{}
	hist.add([]view{v}, at.Add(time.Hour))
	got = hist.of("m")
	require.Zero(t, got[len(got)-1].Output)
	hist.add(nil, at.Add(2*time.Hour))
	require.Empty(t, hist.of("m"))
}

// TestPage: the page loads nothing from elsewhere, and its policy lets nothing else run.
func TestPage(t *testing.T) {
	h := start(t, Options{}, story(t))
	status, body, head := h.get("/")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "text/html; charset=utf-8", head.Get("Content-Type"))
	policy := head.Get("Content-Security-Policy")
	require.Contains(t, policy, "default-src 'none'")
	require.Regexp(t, `script-src 'sha256-[A-Za-z0-9+/]{43}=';`, policy)
	require.NotContains(t, policy, "unsafe")
	require.NotContains(t, strings.ReplaceAll(body, "http://www.w3.org/2000/svg", ""), "://", "nothing remote")
	for _, bad := range []string{" src=", " style=", "onclick", "innerHTML", "eval("} {
		require.NotContains(t, body, bad)
	}
	require.Equal(t, 1, strings.Count(body, "<script"))
	require.Equal(t, 1, strings.Count(body, "<style"))
}
