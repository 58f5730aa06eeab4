package oip

import (
	"context"
	"errors"
	"io"
	"maps"
	"sync"

	"google.golang.org/grpc"

	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/serve/oip/inference"
	"github.com/sparserun/sparserun/serve/registry"
)

// inFlight is how many requests of one stream of language models run at a time; more
// are read when one has ended.
const inFlight = 32

// infers is the stream of one call.
type infers struct {
	*grpcServer
	grpc.BidiStreamingServer[inference.ModelInferRequest, inference.ModelStreamInferResponse]
	sending sync.Mutex
}

func (s *infers) send(r *inference.ModelStreamInferResponse) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.Send(r)
}

// ModelStreamInfer answers requests of a stream. Networks answer in the order of the
// requests; language models with as many pieces as they like, those of several requests
// mixed, told apart by id. A request that fails is answered with error_message, and the
// stream goes on.
func (g *grpcServer) ModelStreamInfer(stream grpc.BidiStreamingServer[inference.ModelInferRequest, inference.ModelStreamInferResponse]) error {
	// A piece that cannot be sent ends the call, and with it all that runs for it.
	ctx, cancel := context.WithCancelCause(stream.Context())
	s := &infers{grpcServer: g, BidiStreamingServer: stream}
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, inFlight)
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			wg.Wait()
			cancel(nil)
			return context.Cause(stream.Context())
		}
		if err != nil {
			cancel(err)
			return err
		}
		m, release, err := g.acquire(ctx, r.GetModelName(), r.GetModelVersion())
		if err == nil && m.LM != nil {
			slots <- struct{}{} // one comes free at the latest when ctx ends
			wg.Go(func() {
				defer func() { <-slots; release() }()
				if err := s.answer(ctx, m, r); err != nil {
					cancel(err)
				}
			})
			continue
		}
		if err == nil {
			err = s.answer(ctx, m, r)
			release()
		} else {
			err = s.failed(ctx, r, err)
		}
		if err != nil {
			cancel(err)
			return err
		}
	}
}

// failed tells of a request that failed; its error is that of the stream.
func (s *infers) failed(ctx context.Context, r *inference.ModelInferRequest, err error) error {
	f := explain(err)
	s.note(ctx, f)
	return s.send(&inference.ModelStreamInferResponse{ErrorMessage: f.message,
		InferResponse: &inference.ModelInferResponse{ModelName: r.GetModelName(), ModelVersion: r.GetModelVersion(), Id: r.GetId()}})
}

// answer answers one request; its error is that of the stream.
func (s *infers) answer(ctx context.Context, m *registry.Model, r *inference.ModelInferRequest) error {
	q, err := parseGRPC(r)
	if err != nil {
		return s.failed(ctx, r, err)
	}
	client := s.client(ctx)
	if m.LM != nil {
		handled, err := s.pieces(ctx, client, m, q, r)
		if handled || err != nil {
			return err
		}
	}
	out, err := s.infer(ctx, client, m, q)
	if err != nil {
		return s.failed(ctx, r, err)
	}
	return s.send(&inference.ModelStreamInferResponse{InferResponse: final(grpcAnswer(m, q, out), true)})
}

// final says whether a response is the last of its request, as Triton does.
func final(a *inference.ModelInferResponse, last bool) *inference.ModelInferResponse {
	a.Parameters = map[string]*inference.InferParameter{"triton_final_response": {ParameterChoice: &inference.InferParameter_BoolParam{BoolParam: last}}}
	return a
}

// pieces answers with text as it comes; handled is false if the request wants it whole.
func (s *infers) pieces(ctx context.Context, client string, m *registry.Model, q *inferRequest, r *inference.ModelInferRequest) (handled bool, err error) {
	piecewise := *q
	piecewise.params = maps.Clone(q.params)
	own, err := piecewise.params.reserved()
	if err != nil {
		return true, s.failed(ctx, r, err)
	}
	g, err := s.newLanguage(client, m, &piecewise)
	if err != nil {
		return true, s.failed(ctx, r, err)
	}
	if g.stream != nil && !*g.stream {
		// The whole text is one inference; what is asked of it is the same but for this.
		for i, x := range q.inputs {
			if x.name == "stream" {
				q.inputs = append(q.inputs[:i:i], q.inputs[i+1:]...)
			}
		}
		delete(q.params, "stream")
		return false, nil
	}
	if len(g.ids) > 1 {
		return true, s.failed(ctx, r, bad("text_input: want one prompt for an answer in pieces, got %d", len(g.ids)))
	}
	pick, err := languagePick(q, g, m)
	if err != nil {
		return true, s.failed(ctx, r, err)
	}
	ctx, cancel := s.deadline(ctx, own)
	defer cancel()
	streams, err := g.submit(ctx, m)
	if err != nil {
		return true, s.failed(ctx, r, err)
	}
	defer streams[0].Close()
	s.used(m.Name)
	text := g.begin(0, m.LM.Tokenizer())
	var drawn []engine.Token
	for {
		ev, err := streams[0].Next(ctx)
		if err != nil {
			return true, s.failed(ctx, r, ended(err))
		}
		text += ev.Text
		drawn = append(drawn, ev.Tokens...)
		if text == "" && ev.Finish == "" {
			continue
		}
		out := answer(pick, g, []string{text}, []string{string(ev.Finish)}, drawn)
		if err := s.send(&inference.ModelStreamInferResponse{InferResponse: final(grpcAnswer(m, q, out), ev.Finish != "")}); err != nil {
			return true, err
		}
		if ev.Finish != "" {
			return true, nil
		}
		text, drawn = "", nil
	}
}
