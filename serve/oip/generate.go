package oip

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/serve/registry"
	"github.com/sparserun/sparserun/serve/wire"
)

// generated is an answer of /generate, or a piece of one of /generate_stream.
type generated struct {
	ID      string        `json:"id,omitempty"`
	Model   string        `json:"model_name"`
	Version string        `json:"model_version"`
	Text    string        `json:"text_output"`
	Finish  engine.Finish `json:"finish_reason,omitempty"`
}

// parseGenerate reads a body of /generate: text_input, id, and the settings of a
// generation, either as members or in "parameters".
func parseGenerate(text string) (*inferRequest, error) {
	r, err := objectReader(text)
	if err != nil {
		return nil, err
	}
	q := &inferRequest{params: parameters{}}
	err = r.Object(func(key string) error {
		switch key {
		case "id":
			id, err := str(r, key)
			q.id = id
			return err
		case "text_input":
			t, err := str(r, key)
			q.inputs = append(q.inputs, named{key, &model.Tensor{Elem: model.ElemString, Shape: []int{1}, Data: []string{t}}})
			return err
		case "parameters":
			return readParameters(r, q.params)
		}
		if settings[key] == nil && key != "timeout" {
			return bad("unknown field %q", clip(key))
		}
		return q.params.read(r, key)
	})
	if err == nil && len(q.inputs) == 0 {
		err = bad("text_input: is required")
	}
	return q, err
}

// startGenerate reads a request and submits it. cancel is to be called at the end; it
// is nil with an error.
func (s *server) startGenerate(w http.ResponseWriter, r *http.Request, m *registry.Model) (*inferRequest, *generation, *engine.Stream, context.Context, func(), error) {
	fail := func(err error) (*inferRequest, *generation, *engine.Stream, context.Context, func(), error) {
		return nil, nil, nil, nil, nil, err
	}
	if m.LM == nil {
		return fail(bad("model %q is no language model: use infer", m.Name))
	}
	body, err := s.body(w, r)
	if err != nil {
		return fail(err)
	}
	q, err := parseGenerate(string(body))
	if err != nil {
		return fail(err)
	}
	own, err := q.params.reserved()
	if err != nil {
		return fail(err)
	}
	g, err := s.newLanguage(s.o.Client(r), m, q)
	if err != nil {
		return fail(err)
	}
	ctx, cancel := s.deadline(r.Context(), own)
	streams, err := g.submit(ctx, m)
	if err != nil {
		cancel()
		return fail(err)
	}
	s.used(m.Name)
	return q, g, streams[0], ctx, func() { streams[0].Close(); cancel() }, nil
}

func (s *server) generate(w http.ResponseWriter, r *http.Request, m *registry.Model) error {
	q, g, st, ctx, cancel, err := s.startGenerate(w, r, m)
	if err != nil {
		return err
	}
	defer cancel()
	out := generated{ID: q.id, Model: m.Name, Version: m.Version}
	var text strings.Builder
	text.WriteString(g.begin(0, m.LM.Tokenizer()))
	for out.Finish == "" {
		ev, err := st.Next(ctx)
		if err != nil {
			return ended(err)
		}
		text.WriteString(ev.Text)
		out.Finish = ev.Finish
	}
	out.Text = text.String()
	return s.reply(w, http.StatusOK, out)
}

// errQuiet: nothing came for as long as wire.Ping.
var errQuiet = errors.New("quiet")

// next is the next event, or errQuiet after a time of silence.
func next(ctx context.Context, st *engine.Stream, silence *time.Timer) (engine.Event, error) {
	silence.Reset(wire.Ping)
	for {
		if ev, ok, err := st.Poll(); ok || err != nil {
			return ev, err
		}
		select {
		case <-st.Ready():
		case <-silence.C:
			return engine.Event{}, errQuiet
		case <-ctx.Done():
			return engine.Event{}, context.Cause(ctx)
		}
	}
}

func (s *server) generateStream(w http.ResponseWriter, r *http.Request, m *registry.Model) error {
	q, g, st, ctx, cancel, err := s.startGenerate(w, r, m)
	if err != nil {
		return err
	}
	defer cancel()
	out := wire.NewEvents(w, s.o.Stall)
	lead := g.begin(0, m.LM.Tokenizer())
	silence := time.NewTimer(wire.Ping)
	defer silence.Stop()
	for {
		ev, err := next(ctx, st, silence)
		switch {
		case errors.Is(err, errQuiet):
			out.Comment("still working")
			if out.Flush() != nil {
				return nil // the reader is gone
			}
			continue
		case err != nil && !out.Started():
			return ended(err)
		case err != nil:
			f := explain(ended(err))
			s.note(r.Context(), f)
			if r.Context().Err() == nil {
				_ = out.Data(map[string]string{"error": f.message}) // strings only: always JSON
				_ = out.Flush()                                     // the last words
			}
			return nil
		}
		piece := generated{ID: q.id, Model: m.Name, Version: m.Version, Text: lead + ev.Text, Finish: ev.Finish}
		if lead = ""; piece.Text != "" || ev.Finish != "" {
			if err := out.Data(piece); err != nil {
				return err
			}
			if out.Flush() != nil {
				return nil // the reader is gone, or stalled for too long
			}
		}
		if ev.Finish != "" {
			return nil
		}
	}
}
