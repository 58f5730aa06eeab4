package openai

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sparserun/sparserun/serve/registry"
	"github.com/sparserun/sparserun/serve/wire"
	"github.com/sparserun/sparserun/tokenizer"
)

// Options are the handlers'. The zero value is the default.
type Options struct {
	MaxBody int64         // bytes of a request's body; default 8 MiB
	Timeout time.Duration // of a request from its first step to its end; 0: none
	Stall   time.Duration // how long a reader may let a piece of an answer wait; default 30 s
	Lenient bool          // unknown fields, and those that leave the text as it is, are ignored
	// Client names the caller for the fair queue; nil: all are one.
	Client func(*http.Request) string
	// Seen is told the model of a request as soon as it is known to exist; may be nil.
	Seen func(ctx context.Context, model string)
	Log  *slog.Logger // failures of ours; nil: none
	Now  func() time.Time
}

type handler struct {
	reg   *registry.Registry
	o     Options
	newID func(prefix string) string
	ping  time.Duration
	// vocabularies holds, by model name, what is looked up in a whole vocabulary.
	vocabularies sync.Map
}

// New serves /v1/... from the models of r.
func New(r *registry.Registry, o Options) http.Handler { return newHandler(r, o) }

func newHandler(r *registry.Registry, o Options) *handler {
	if o.MaxBody == 0 {
		o.MaxBody = 8 << 20
	}
	if o.Stall == 0 {
		o.Stall = 30 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Seen == nil {
		o.Seen = func(context.Context, string) {}
	}
	if o.Client == nil {
		o.Client = func(*http.Request) string { return "" }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &handler{reg: r, o: o, newID: randomID, ping: wire.Ping}
}

func randomID(prefix string) string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program first
	return prefix + hex.EncodeToString(b[:])
}

// routes are the paths without a parameter.
var routes = map[string]struct {
	method string
	serve  func(*handler, http.ResponseWriter, *http.Request) error
}{
	"/v1/models":           {http.MethodGet, (*handler).models},
	"/v1/completions":      {http.MethodPost, (*handler).completions},
	"/v1/chat/completions": {http.MethodPost, (*handler).chat},
	"/v1/embeddings":       {http.MethodPost, (*handler).embeddings},
}

// ServeHTTP routes a request and writes its error, if nothing was answered yet.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	route, ok := routes[r.URL.Path]
	if !ok && strings.HasPrefix(r.URL.Path, "/v1/models/") {
		route.method, route.serve, ok = http.MethodGet, (*handler).model, true
	}
	var err error
	switch {
	case !ok:
		err = &problem{Status: http.StatusNotFound, Type: typeRequest, Code: "unknown_url", Message: "unknown URL: " + r.Method + " " + clip(r.URL.Path)}
	case r.Method != route.method && !(r.Method == http.MethodHead && route.method == http.MethodGet):
		w.Header().Set("Allow", route.method)
		err = &problem{Status: http.StatusMethodNotAllowed, Type: typeRequest, Code: "method_not_allowed", Message: "want " + route.method + ", got " + clip(r.Method)}
	default:
		err = route.serve(h, w, r)
	}
	if err != nil {
		h.fail(w, r, err)
	}
}

type modelObject struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
	// MaxLen is the most tokens of a prompt and its output together, under vLLM's name.
	MaxLen int `json:"max_model_len"`
}

func describe(m *registry.Model) modelObject {
	return modelObject{ID: m.Name, Object: "model", Created: m.Loaded.Unix(), OwnedBy: "sparserun", MaxLen: m.LM.Context()}
}

// models lists the language models that are loaded; networks have no place in this API.
func (h *handler) models(w http.ResponseWriter, _ *http.Request) error {
	list := struct {
		Object string        `json:"object"`
		Data   []modelObject `json:"data"`
	}{"list", []modelObject{}}
	for _, s := range h.reg.Index() {
		m, release, err := h.reg.Acquire(s.Name)
		if err != nil {
			continue // not loaded, or no longer
		}
		if m.LM != nil {
			list.Data = append(list.Data, describe(m))
		}
		release()
	}
	wire.Reply(w, http.StatusOK, h.o.Stall, list)
	return nil
}

func (h *handler) model(w http.ResponseWriter, r *http.Request) error {
	m, release, err := h.acquire(r.Context(), strings.TrimPrefix(r.URL.Path, "/v1/models/"))
	if err != nil {
		return err
	}
	defer release()
	wire.Reply(w, http.StatusOK, h.o.Stall, describe(m))
	return nil
}

// acquire gives a language model with a tokenizer.
func (h *handler) acquire(ctx context.Context, name string) (*registry.Model, func(), error) {
	m, release, err := h.reg.Acquire(name)
	if err != nil {
		return nil, nil, err
	}
	h.o.Seen(ctx, m.Name)
	if m.LM == nil || m.LM.Tokenizer() == nil {
		release()
		return nil, nil, &problem{Status: http.StatusBadRequest, Type: typeRequest, Param: "model", Code: "model_not_supported",
			Message: "model " + m.Name + " is no language model with a tokenizer; see /v2/models"}
	}
	return m, release, nil
}

// vocabulary is what is looked up in all tokens of a model at once.
type vocabulary struct {
	t       *tokenizer.Tokenizer
	special []string // texts of special tokens, longest first
	longest int      // bytes of the longest token
}

func (h *handler) vocabulary(m *registry.Model) *vocabulary {
	t := m.LM.Tokenizer()
	if v, ok := h.vocabularies.Load(m.Name); ok && v.(*vocabulary).t == t {
		return v.(*vocabulary)
	}
	v := newVocabulary(t)
	h.vocabularies.Store(m.Name, v)
	return v
}
