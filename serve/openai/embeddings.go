package openai

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"net/http"

	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/serve/wire"
)

// embeddingRequest is the body of /v1/embeddings.
type embeddingRequest struct {
	sampling // for its model and fields without effect; no sampling takes place
	inputs   []prompt
	base64   bool
	pooling  engine.Pooling
}

var embeddingFields = fields[embeddingRequest]{
	"model": func(e *embeddingRequest, d document) (err error) { e.model, err = text(d); return },
	"input": func(e *embeddingRequest, d document) (err error) { e.inputs, err = prompts(d, maxInputs); return },
	"encoding_format": func(e *embeddingRequest, d document) error {
		s, err := oneOf(d, "float", "base64")
		e.base64 = s == "base64"
		return err
	},
	"pooling": func(e *embeddingRequest, d document) error {
		s, err := oneOf(d, "mean", "last")
		if s == "last" {
			e.pooling = engine.PoolLast
		}
		return err
	},
	"user":       func(_ *embeddingRequest, d document) error { _, err := text(d); return err },
	"dimensions": no[embeddingRequest],
}

func (h *handler) parseEmbedding(d document) (*embeddingRequest, error) {
	e := &embeddingRequest{sampling: defaults(h.o.Lenient)}
	if err := object(d, "", e, embeddingFields, h.o.Lenient); err != nil {
		return nil, err
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	if e.inputs == nil {
		return nil, bad("input", "is required")
	}
	return e, nil
}

type embedding struct {
	Object    string `json:"object"`
	Index     int    `json:"index"`
	Embedding any    `json:"embedding"` // numbers, or base64 of little-endian float32
}

type embeddingUsage struct {
	Prompt int `json:"prompt_tokens"`
	Total  int `json:"total_tokens"`
}

func (h *handler) embeddings(w http.ResponseWriter, r *http.Request) error {
	d, err := h.read(w, r)
	if err != nil {
		return err
	}
	e, err := h.parseEmbedding(d)
	if err != nil {
		return err
	}
	m, release, err := h.acquire(r.Context(), e.model)
	if err != nil {
		return err
	}
	defer release()
	v := h.vocabulary(m)
	list := struct {
		Object string         `json:"object"`
		Data   []embedding    `json:"data"`
		Model  string         `json:"model"`
		Usage  embeddingUsage `json:"usage"`
	}{Object: "list", Model: m.Name}
	var ids [][]int32
	for i, p := range e.inputs {
		param := "input"
		if len(e.inputs) > 1 {
			param = fmt.Sprintf("input[%d]", i)
		}
		tokens, _, err := v.encode(m, param, p, false)
		if err != nil {
			return err
		}
		ids = append(ids, tokens)
		list.Usage.Prompt += len(tokens)
	}
	list.Usage.Total = list.Usage.Prompt
	ctx := r.Context()
	if h.o.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, h.o.Timeout)
		defer cancel()
	}
	vectors, err := m.LM.Embed(ctx, ids, e.pooling)
	if err != nil {
		return err
	}
	for i, x := range vectors {
		item := embedding{Object: "embedding", Index: i, Embedding: x}
		if e.base64 {
			item.Embedding = packed(x)
		}
		list.Data = append(list.Data, item)
	}
	wire.Reply(w, http.StatusOK, h.o.Stall, list)
	return nil
}

// packed is base64 of little-endian float32, as OpenAI's clients ask for by default.
func packed(x []float32) string {
	b := make([]byte, 0, 4*len(x))
	for _, f := range x {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
	}
	return base64.StdEncoding.EncodeToString(b)
}
