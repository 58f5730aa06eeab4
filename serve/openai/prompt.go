package openai

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/sparserun/sparserun/serve/registry"
	"github.com/sparserun/sparserun/tokenizer"
	"github.com/sparserun/sparserun/tokenizer/chat"
)

func newVocabulary(t *tokenizer.Tokenizer) *vocabulary {
	v := &vocabulary{t: t, longest: 1}
	for id := range int32(t.VocabSize()) {
		b := t.Token(id)
		v.longest = max(v.longest, len(b))
		if t.Special(id) && len(b) > 0 {
			v.special = append(v.special, string(b))
		}
	}
	slices.SortFunc(v.special, func(a, b string) int { return len(b) - len(a) })
	return v
}

// conversation turns messages into a prompt in which no message can forge a special
// token.
//
// A template writes <|im_end|> and the like around messages, and its text is then
// encoded with special tokens parsed: a message that contains "<|im_end|>" would end
// itself and could go on as the system. Encoding each message by itself would stop
// that, but also change honest prompts, as words merge across the seams ("user\n" and
// what follows), and templates trim, split and compare contents, so placeholders in
// their stead are no way either. Instead:
//
//  1. Where a message holds the text of a special token, a random number of 40 digits
//     stands for it while the template is rendered. The text is then cut there, the
//     pieces between are encoded with special tokens parsed, the token's text without.
//     Messages without such text, nearly all, give the very prompt of the reference.
//  2. A template could still put one together, of two halves around a piece that it
//     drops, or a normaliser could, of full-width letters. So the conversation is
//     rendered once more with x for every letter of the messages, and the special
//     tokens of both prompts must be the same, one by one. If they are not, a message
//     has made one, and the request is refused.
//
// Names are treated as contents are; roles come from a fixed list.
func (v *vocabulary) conversation(ctx context.Context, t *chat.Template, messages []chat.Message) ([]int32, error) {
	nonce, err := rand.Int(rand.Reader, new(big.Int).Exp(big.NewInt(10), big.NewInt(nonceDigits), nil))
	if err != nil {
		return nil, fmt.Errorf("openai: random number: %w", err)
	}
	mark := fmt.Sprintf("%0*d", nonceDigits, nonce)
	marked := eachText(messages, func(s string) string { return v.hide(s, mark) })
	text, err := v.render(ctx, t, marked)
	if err != nil {
		return nil, err
	}
	ids, special := v.encodeMarked(text, mark)

	neutral := eachText(messages, func(s string) string {
		return strings.Map(func(r rune) rune {
			if unicode.IsSpace(r) {
				return r
			}
			return 'x'
		}, s)
	})
	if text, err = v.render(ctx, t, neutral); err != nil {
		return nil, err
	}
	if _, want := v.encodeMarked(text, mark); !slices.Equal(special, want) {
		return nil, bad("messages", "the text of a message would become a special token of the model")
	}
	return ids, nil
}

const (
	nonceDigits = 40
	indexDigits = 6
)

// hide puts mark and the number of a special token where its text stands.
func (v *vocabulary) hide(s, mark string) string {
	var out strings.Builder
	done := 0
	for i := 0; i < len(s); {
		k := slices.IndexFunc(v.special, func(t string) bool { return strings.HasPrefix(s[i:], t) })
		if k < 0 {
			i++
			continue
		}
		fmt.Fprintf(&out, "%s%s%0*d", s[done:i], mark, indexDigits, k)
		i += len(v.special[k])
		done = i
	}
	if done == 0 {
		return s
	}
	return out.String() + s[done:]
}

// encodeMarked encodes a rendered conversation; special are the special tokens in it.
func (v *vocabulary) encodeMarked(text, mark string) (ids, special []int32) {
	for i, piece := range strings.Split(text, mark) {
		if i > 0 {
			// A template that cuts a mark short leaves its rest standing.
			n := min(indexDigits, len(piece))
			if k, err := strconv.Atoi(piece[:n]); err == nil && n == indexDigits && k < len(v.special) {
				piece = piece[n:]
				ids = append(ids, v.t.Encode(v.special[k], tokenizer.EncodeOptions{BOS: tokenizer.Never, EOS: tokenizer.Never})...)
			}
		}
		if piece == "" {
			continue
		}
		for _, id := range v.t.Encode(piece, tokenizer.EncodeOptions{BOS: tokenizer.Never, EOS: tokenizer.Never, ParseSpecial: true}) {
			if ids = append(ids, id); v.t.Special(id) {
				special = append(special, id)
			}
		}
	}
	return ids, special
}

// eachText is messages with f applied to what users wrote.
func eachText(messages []chat.Message, f func(string) string) []chat.Message {
	out := slices.Clone(messages)
	for i := range out {
		out[i].Content = f(out[i].Content)
		if name, ok := out[i].Extra["name"].(string); ok {
			out[i].Extra = map[string]any{"name": f(name)}
		}
	}
	return out
}

func (v *vocabulary) render(ctx context.Context, t *chat.Template, messages []chat.Message) (string, error) {
	text := func(id int) string { return string(v.t.Token(int32(id))) }
	o := chat.Options{AddGenerationPrompt: true, BOS: text(v.t.BOS()), EOS: text(v.t.EOS()), Context: ctx}
	s, err := t.Render(messages, o)
	switch {
	case err == nil:
		return s, nil
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case errors.Is(err, chat.ErrRaised), errors.Is(err, chat.ErrRender), errors.Is(err, chat.ErrLimit):
		return "", &problem{Status: http.StatusBadRequest, Type: typeRequest, Param: "messages", Code: "invalid_value", Message: "messages: " + clip(err.Error())}
	}
	return "", err
}

// chatPrompt is the prompt of a conversation for a model.
func (h *handler) chatPrompt(ctx context.Context, m *registry.Model, c *chatRequest) ([]int32, error) {
	if m.Template == nil {
		why := "has no chat template"
		if m.TemplateErr != nil {
			why = "has a chat template that cannot be used: " + clip(m.TemplateErr.Error())
		}
		return nil, &problem{Status: http.StatusBadRequest, Type: typeRequest, Param: "model", Code: "model_not_supported", Message: "model " + m.Name + " " + why}
	}
	v := h.vocabulary(m)
	size := 0
	for _, msg := range c.messages {
		size += len(msg.Content)
	}
	if err := v.fits("messages", m, size); err != nil {
		return nil, err
	}
	ids, err := v.conversation(ctx, m.Template, c.messages)
	if err != nil {
		return nil, err
	}
	return ids, fits("messages", m, ids)
}

// fits refuses a text that is too long whatever its tokens are, before it is encoded.
func (v *vocabulary) fits(param string, m *registry.Model, bytes int) error {
	if n := bytes / v.longest; n >= m.LM.Context() {
		return tooLong(param, m.LM.Context(), n)
	}
	return nil
}

func fits(param string, m *registry.Model, ids []int32) error {
	if len(ids) == 0 {
		return bad(param, "want at least one token")
	}
	if len(ids) >= m.LM.Context() {
		return tooLong(param, m.LM.Context(), len(ids))
	}
	return nil
}
