package oip

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"

	"github.com/sparserun/sparserun/serve/registry"
	"github.com/sparserun/sparserun/serve/wire"
)

// NewHTTP serves /v2/... from the models of r.
func NewHTTP(r *registry.Registry, o Options) http.Handler { return newServer(r, o) }

// ServeHTTP routes a request and writes its error.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := s.route(w, r); err != nil {
		s.fail(w, r, err)
	}
}

func (s *server) route(w http.ResponseWriter, r *http.Request) error {
	path := strings.TrimSuffix(r.URL.Path, "/")
	if f, ok := map[string]func(http.ResponseWriter, *http.Request) error{
		"/v2": s.serverMetadata, "/v2/health/live": s.live, "/v2/health/ready": s.ready, "/v2/models/stats": s.allStats,
	}[path]; ok {
		return method(w, r, http.MethodGet, f)
	}
	if path == "/v2/repository/index" {
		return method(w, r, http.MethodPost, s.repositoryIndex)
	}
	if rest, ok := strings.CutPrefix(path, "/v2/repository/models/"); ok {
		if name, ok := strings.CutSuffix(rest, "/load"); ok {
			return method(w, r, http.MethodPost, func(w http.ResponseWriter, r *http.Request) error { return s.load(w, r, name) })
		}
		if name, ok := strings.CutSuffix(rest, "/unload"); ok {
			return method(w, r, http.MethodPost, func(w http.ResponseWriter, r *http.Request) error { return s.unload(w, r, name) })
		}
	}
	if rest, ok := strings.CutPrefix(path, "/v2/models/"); ok {
		return s.routeModel(w, r, rest)
	}
	return notFound("unknown URL: %s %s", r.Method, clip(r.URL.Path))
}

// verbs are what follows a model's name in a path.
var verbs = map[string]struct {
	method string
	serve  func(*server, http.ResponseWriter, *http.Request, *registry.Model) error
}{
	"":                {http.MethodGet, (*server).modelMetadata},
	"stats":           {http.MethodGet, (*server).modelStats},
	"infer":           {http.MethodPost, (*server).inferHTTP},
	"generate":        {http.MethodPost, (*server).generate},
	"generate_stream": {http.MethodPost, (*server).generateStream},
}

// routeModel takes NAME[/versions/VERSION][/VERB]. A name may have slashes, so the
// path is read from its end.
func (s *server) routeModel(w http.ResponseWriter, r *http.Request, rest string) error {
	name, verb := rest, ""
	for v := range verbs {
		if n, ok := strings.CutSuffix(rest, "/"+v); v != "" && ok {
			name, verb = n, v
		}
	}
	if n, ok := strings.CutSuffix(rest, "/ready"); ok {
		name, verb = n, "ready"
	}
	version := ""
	if i := strings.LastIndex(name, "/versions/"); i >= 0 && !strings.Contains(name[i+len("/versions/"):], "/") {
		name, version = name[:i], name[i+len("/versions/"):]
	}
	if verb == "ready" {
		return method(w, r, http.MethodGet, func(w http.ResponseWriter, r *http.Request) error { return s.modelReady(w, r, name, version) })
	}
	v := verbs[verb]
	return method(w, r, v.method, func(w http.ResponseWriter, r *http.Request) error {
		m, release, err := s.acquire(r.Context(), name, version)
		if err != nil {
			return err
		}
		defer release()
		return v.serve(s, w, r, m)
	})
}

func method(w http.ResponseWriter, r *http.Request, want string, f func(http.ResponseWriter, *http.Request) error) error {
	if r.Method != want && !(want == http.MethodGet && r.Method == http.MethodHead) {
		w.Header().Set("Allow", want)
		return &failure{http: http.StatusMethodNotAllowed, message: "want " + want + ", got " + clip(r.Method)}
	}
	return f(w, r)
}

func (s *server) reply(w http.ResponseWriter, status int, v any) error {
	wire.Reply(w, status, s.o.Stall, v)
	return nil
}

func (s *server) serverMetadata(w http.ResponseWriter, _ *http.Request) error {
	return s.reply(w, http.StatusOK, map[string]any{"name": "sparserun", "version": s.o.Version, "extensions": extensions})
}

func (s *server) live(w http.ResponseWriter, _ *http.Request) error {
	return s.reply(w, http.StatusOK, map[string]bool{"live": true})
}

func (s *server) ready(w http.ResponseWriter, _ *http.Request) error {
	status := http.StatusOK
	if !s.o.Ready() {
		status = http.StatusServiceUnavailable
	}
	return s.reply(w, status, map[string]bool{"ready": status == http.StatusOK})
}

func (s *server) modelReady(w http.ResponseWriter, r *http.Request, name, version string) error {
	_, release, err := s.acquire(r.Context(), name, version)
	if err != nil {
		f := explain(err)
		if f.http != http.StatusServiceUnavailable {
			return err
		}
		return s.reply(w, f.http, map[string]any{"name": name, "ready": false})
	}
	release()
	return s.reply(w, http.StatusOK, map[string]any{"name": name, "ready": true})
}

func (s *server) modelMetadata(w http.ResponseWriter, _ *http.Request, m *registry.Model) error {
	return s.reply(w, http.StatusOK, describe(m))
}

// outputTensor is an output as JSON has it.
type outputTensor struct {
	Name       string         `json:"name"`
	Datatype   string         `json:"datatype"`
	Shape      []int          `json:"shape"`
	Parameters map[string]int `json:"parameters,omitempty"`
	Data       any            `json:"data,omitempty"`
}

type inferAnswer struct {
	Model   string         `json:"model_name"`
	Version string         `json:"model_version,omitempty"`
	ID      string         `json:"id,omitempty"`
	Outputs []outputTensor `json:"outputs"`
}

func (s *server) inferHTTP(w http.ResponseWriter, r *http.Request, m *registry.Model) error {
	body, err := s.body(w, r)
	if err != nil {
		return err
	}
	text, tensors, err := split(body, r.Header.Get(headerLength))
	if err != nil {
		return err
	}
	q, err := parseInfer(text, tensors)
	if err != nil {
		return err
	}
	out, err := s.infer(r.Context(), s.o.Client(r), m, q)
	if err != nil {
		return err
	}
	return s.replyTensors(w, m, q, out)
}

// replyTensors answers with JSON and after it the outputs that are wanted as binary.
func (s *server) replyTensors(w http.ResponseWriter, m *registry.Model, q *inferRequest, out []named) error {
	a := inferAnswer{Model: m.Name, Version: m.Version, ID: q.id, Outputs: []outputTensor{}}
	var raw []byte
	binary := false
	for _, x := range out {
		o := outputTensor{Name: x.name, Datatype: datatypeOf(x.Elem), Shape: append([]int{}, x.Shape...)}
		if q.isBinary(x.name) {
			binary = true
			from := len(raw)
			raw = appendRaw(raw, x.Tensor)
			o.Parameters = map[string]int{"binary_data_size": len(raw) - from}
		} else {
			var err error
			if o.Data, err = jsonData(x.name, x.Tensor); err != nil {
				return err
			}
		}
		a.Outputs = append(a.Outputs, o)
	}
	if !binary {
		return s.reply(w, http.StatusOK, a)
	}
	var b bytes.Buffer
	if err := wire.Encode(&b, a); err != nil {
		return err
	}
	w.Header().Set(headerLength, strconv.Itoa(b.Len()))
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()+len(raw)))
	wire.Patience(http.NewResponseController(w), s.o.Stall)
	if _, err := w.Write(b.Bytes()); err == nil {
		_, _ = w.Write(raw) // the reader is gone: nobody to tell
	}
	return nil
}
