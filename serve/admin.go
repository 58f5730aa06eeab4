package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/pprof"
	goruntime "runtime"
	"runtime/debug"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/serve/oip"
	"github.com/sparserun/sparserun/serve/registry"
	"github.com/sparserun/sparserun/sparse"
)

// adminHandler is everything that the admin listener answers: profiles, metrics, the
// model repository with load and unload, models of other paths, key reload.
func (s *Server) adminHandler() http.Handler {
	mux := http.NewServeMux()
	s.probes(mux)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	route(mux, http.MethodGet, "/metrics", s.metrics.handler())
	route(mux, http.MethodGet, "/api/stats", http.HandlerFunc(s.serveStats))
	route(mux, http.MethodPost, "/admin/load", http.HandlerFunc(s.adminLoad))
	route(mux, http.MethodPost, "/admin/unload", http.HandlerFunc(s.adminUnload))
	route(mux, http.MethodPost, "/admin/keys/reload", http.HandlerFunc(s.adminKeys))
	mux.Handle("/v2/", oip.NewHTTP(s.reg, s.oipOptions(true)))
	mux.HandleFunc("/", notFound)
	return s.wrap(mux, !loopback(s.gates["admin"].Addr()))
}

func version(o *Options) map[string]string {
	return map[string]string{"version": o.Version, "go": goruntime.Version(), "os": goruntime.GOOS, "arch": goruntime.GOARCH, "backend": o.Backend}
}

// loadRequest is what POST /admin/load takes. Without a path the model is loaded again
// as it was; what is not given stays as the model of that name has it, or the server's
// default.
type loadRequest struct {
	Name    string   `json:"name"`
	Path    string   `json:"path"`
	DType   string   `json:"dtype"`
	Sparse  string   `json:"sparse"`
	Context *int     `json:"context"`      // 0: the model's
	Shadow  *float64 `json:"shadow_dense"` // 0: none
}

// decode reads a body of one JSON object into v, or answers why not.
func decode(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = fmt.Errorf("want one object, got more at offset %d", d.InputOffset())
		}
	}
	if err != nil {
		fail(w, r, http.StatusBadRequest, "body: "+err.Error())
	}
	return err == nil
}

func (s *Server) adminLoad(w http.ResponseWriter, r *http.Request) {
	var q loadRequest
	if !decode(w, r, &q) {
		return
	}
	if q.Name == "" {
		fail(w, r, http.StatusBadRequest, "name: want a model's name, got none")
		return
	}
	var err error
	if q.Path == "" && (q.DType != "" || q.Sparse != "" || q.Context != nil || q.Shadow != nil) {
		fail(w, r, http.StatusBadRequest, "path: is missing: without one a model is loaded again as it was")
		return
	}
	if q.Path == "" {
		err = s.reg.Reload(r.Context(), q.Name)
	} else {
		spec := registry.Spec{}
		if m, release, e := s.reg.Acquire(q.Name); e == nil {
			spec = m.Spec
			release()
		} else if s.o.Spec != nil {
			spec = *s.o.Spec
		}
		spec.Name, spec.Path = q.Name, q.Path
		if err = q.apply(&spec); err != nil {
			fail(w, r, http.StatusBadRequest, err.Error())
			return
		}
		err = s.reg.Load(r.Context(), spec)
	}
	if err != nil {
		s.log.Error("load", "model", q.Name, "error", err)
		status := http.StatusBadRequest // the file's fault, or the path's
		switch {
		case errors.Is(err, registry.ErrNotFound):
			status = http.StatusNotFound
		case errors.Is(err, registry.ErrMemory):
			status = http.StatusInsufficientStorage
		case errors.Is(err, registry.ErrClosed):
			status = http.StatusServiceUnavailable
		}
		fail(w, r, status, err.Error())
		return
	}
	s.LogModel(q.Name)
	writeJSON(w, http.StatusOK, map[string]string{"loaded": q.Name})
}

func (q *loadRequest) apply(s *registry.Spec) error {
	if q.DType != "" {
		t, err := sparse.ParseDType(q.DType)
		if err != nil {
			return err
		}
		s.DType = t
	}
	if q.Sparse != "" {
		if err := SetSparse(&s.Options, q.Sparse); err != nil {
			return err
		}
	}
	if q.Context != nil {
		if s.Context = *q.Context; s.Context < 0 {
			return fmt.Errorf("context: want at least 0, got %d", s.Context)
		}
	}
	if q.Shadow != nil {
		if s.Shadow = *q.Shadow; s.Shadow < 0 || s.Shadow > 1 {
			return fmt.Errorf("shadow_dense: want 0 to 1, got %g", s.Shadow)
		}
	}
	return nil
}

// SetSparse sets what the flag --sparse says: auto, off, or a layout.
func SetSparse(o *runtime.Options, mode string) error {
	switch mode {
	case "auto":
		o.Sparse = runtime.SparseAuto
	case "off", "dense":
		o.Sparse = runtime.SparseOff
	default:
		l, err := sparse.ParseLayout(mode)
		if err != nil {
			return err
		}
		o.Sparse, o.Layout = runtime.SparseForce, l
	}
	return nil
}

func (s *Server) adminUnload(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Name string `json:"name"`
	}
	if !decode(w, r, &q) {
		return
	}
	switch err := s.reg.Unload(r.Context(), q.Name); {
	case errors.Is(err, registry.ErrNotFound):
		fail(w, r, http.StatusNotFound, err.Error())
	case errors.Is(err, registry.ErrNotReady): // it is unloaded already
		fail(w, r, http.StatusConflict, err.Error())
	case err != nil:
		fail(w, r, http.StatusInternalServerError, err.Error())
	default:
		s.log.Info("unloaded", "model", q.Name)
		writeJSON(w, http.StatusOK, map[string]string{"unloaded": q.Name})
	}
}

func (s *Server) adminKeys(w http.ResponseWriter, r *http.Request) {
	if s.o.Keys == nil {
		fail(w, r, http.StatusNotFound, "the server asks for no keys")
		return
	}
	if err := s.o.Keys.Reload(); err != nil {
		fail(w, r, http.StatusInternalServerError, err.Error())
		return
	}
	writeJSON(w, http.StatusOK, map[string]int{"keys": s.o.Keys.Len()})
}

// LogModel logs what a model weighs, beside what it would dense.
func (s *Server) LogModel(name string) {
	for _, v := range s.views() {
		if v.status.Name != name || !v.loaded {
			continue
		}
		w := v.m.Info.WeightBytes
		layouts := map[string]int{}
		for _, c := range v.choices {
			layouts[execName(c.Kernel.Layout, v.weightType())]++
		}
		s.log.Info("model loaded", "model", name, "path", v.m.Path, "arch", v.m.Info.Arch, "dtype", v.weightType().String(),
			"sparsity", v.m.Info.Sparsity, "sparse_bytes", w.Total(), "values", w.Values, "metadata", w.Metadata, "scales", w.Scales,
			"dense_bytes", v.m.Info.DenseWeightBytes, "of_dense", float64(w.Total())/float64(max(v.m.Info.DenseWeightBytes, 1)), "layouts", layouts, "seconds", v.m.LoadTime.Seconds())
	}
	debug.FreeOSMemory() // the file, and what packing needed
}
