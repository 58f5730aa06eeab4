package oip

import (
	"net/http"
	"sync/atomic"

	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/serve/registry"
)

// duration is how often something happened and how long it took in all.
type duration struct {
	Count uint64 `json:"count"`
	NS    uint64 `json:"ns"`
}

type inferStats struct {
	Success       duration `json:"success"`
	Fail          duration `json:"fail"`
	Queue         duration `json:"queue"`
	ComputeInput  duration `json:"compute_input"`
	ComputeInfer  duration `json:"compute_infer"`
	ComputeOutput duration `json:"compute_output"`
	CacheHit      duration `json:"cache_hit"`
	CacheMiss     duration `json:"cache_miss"`
}

type memoryUsage struct {
	Type  string `json:"type"`
	ID    int64  `json:"id"`
	Bytes uint64 `json:"byte_size"`
}

// modelStatistics is a model's statistics in Triton's words. What is not measured
// apart (input, output) is 0; a language model's executions are its steps.
type modelStatistics struct {
	Name       string        `json:"name"`
	Version    string        `json:"version"`
	Last       uint64        `json:"last_inference"` // ms since 1970
	Inferences uint64        `json:"inference_count"`
	Executions uint64        `json:"execution_count"`
	Stats      inferStats    `json:"inference_stats"`
	Responses  struct{}      `json:"response_stats"`
	Batches    []struct{}    `json:"batch_stats"`
	Memory     []memoryUsage `json:"memory_usage"`
}

type statsAnswer struct {
	Models []modelStatistics `json:"model_stats"`
}

func sum(h engine.Histogram) duration { return duration{h.Count, uint64(h.Sum * 1e9)} }

func total(m map[string]uint64) (n uint64) {
	for _, v := range m {
		n += v
	}
	return n
}

func (s *server) statistics(m *registry.Model) modelStatistics {
	st := modelStatistics{Name: m.Name, Version: m.Version, Batches: []struct{}{}, Memory: []memoryUsage{}}
	if v, ok := s.last.Load(m.Name); ok {
		st.Last = uint64(v.(*atomic.Int64).Load())
	}
	if m.LM != nil {
		e := m.LM.Stats()
		st.Inferences, st.Executions = e.Total.Count, e.Step.Count
		st.Stats = inferStats{Success: sum(e.Total), Fail: duration{Count: total(e.Cancelled) + total(e.Rejected)}, Queue: sum(e.Queue), ComputeInfer: sum(e.Step),
			CacheHit: duration{Count: e.CachedTokens}, CacheMiss: duration{Count: e.PromptTokens - min(e.CachedTokens, e.PromptTokens)}}
	} else {
		b := m.Net.Stats()
		st.Inferences, st.Executions = b.Items, b.Batches
		st.Stats = inferStats{Success: sum(b.Total), Fail: duration{Count: b.Failed + total(b.Cancelled) + total(b.Rejected)}, Queue: sum(b.Queue), ComputeInfer: sum(b.Run)}
	}
	if n := m.Info.WeightBytes.Total(); n > 0 {
		st.Memory = append(st.Memory, memoryUsage{Type: "CPU", Bytes: uint64(n)})
	}
	return st
}

func (s *server) modelStats(w http.ResponseWriter, _ *http.Request, m *registry.Model) error {
	return s.reply(w, http.StatusOK, statsAnswer{[]modelStatistics{s.statistics(m)}})
}

// allStatistics are those of every loaded model.
func (s *server) allStatistics() []modelStatistics {
	list := []modelStatistics{}
	for _, st := range s.reg.Index() {
		m, release, err := s.reg.Acquire(st.Name)
		if err != nil {
			continue // not loaded
		}
		list = append(list, s.statistics(m))
		release()
	}
	return list
}

func (s *server) allStats(w http.ResponseWriter, _ *http.Request) error {
	return s.reply(w, http.StatusOK, statsAnswer{s.allStatistics()})
}
