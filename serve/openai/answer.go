package openai

import (
	"math"
	"strings"
	"unicode/utf8"

	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/tokenizer"
)

type usage struct {
	Prompt     int            `json:"prompt_tokens"`
	Completion int            `json:"completion_tokens"`
	Total      int            `json:"total_tokens"`
	Details    *promptDetails `json:"prompt_tokens_details,omitempty"`
}

type promptDetails struct {
	Cached int `json:"cached_tokens"`
}

// countUsage adds up the choices; the n choices of a prompt share it.
func countUsage(each []engine.Usage, n int) usage {
	u := usage{Details: &promptDetails{}}
	for i, e := range each {
		if i%n == 0 {
			u.Prompt += e.Prompt
			u.Details.Cached += e.Cached
		}
		u.Completion += e.Output
	}
	u.Total = u.Prompt + u.Completion
	return u
}

// chatLogprobs is choices[].logprobs of chat.
type chatLogprobs struct {
	Content []chatToken `json:"content"`
	Refusal *string     `json:"refusal"`
}

type chatToken struct {
	Token   string    `json:"token"`
	Logprob float64   `json:"logprob"`
	Bytes   []int     `json:"bytes"`
	Top     []chatTop `json:"top_logprobs"`
}

type chatTop struct {
	Token   string  `json:"token"`
	Logprob float64 `json:"logprob"`
	Bytes   []int   `json:"bytes"`
}

// finite is x as JSON can have it; -9999 is what the field writes for never.
func finite(x float32) float64 {
	if math.IsNaN(float64(x)) || x < -9999 {
		return -9999
	}
	return float64(x)
}

// shown is a token as text: bytes that are no UTF-8 by themselves are U+FFFD.
func shown(t *tokenizer.Tokenizer, id int32) (string, []int) {
	b := t.Token(id)
	ints := make([]int, len(b))
	for i, c := range b {
		ints[i] = int(c)
	}
	return strings.ToValidUTF8(string(b), "\uFFFD"), ints
}

func newChatLogprobs(t *tokenizer.Tokenizer, tokens []engine.Token) *chatLogprobs {
	l := &chatLogprobs{Content: []chatToken{}}
	for _, tok := range tokens {
		c := chatToken{Logprob: finite(tok.Logprob.Logprob), Top: []chatTop{}}
		c.Token, c.Bytes = shown(t, tok.ID)
		for _, top := range tok.Top {
			x := chatTop{Logprob: finite(top.Logprob)}
			x.Token, x.Bytes = shown(t, top.ID)
			c.Top = append(c.Top, x)
		}
		l.Content = append(l.Content, c)
	}
	return l
}

// textLogprobs is choices[].logprobs of completions.
type textLogprobs struct {
	Tokens   []string             `json:"tokens"`
	Logprobs []float64            `json:"token_logprobs"`
	Top      []map[string]float64 `json:"top_logprobs"`
	Offsets  []int                `json:"text_offset"`
}

// newTextLogprobs counts offsets in runes from offset on and returns the next.
func newTextLogprobs(t *tokenizer.Tokenizer, tokens []engine.Token, offset int) (*textLogprobs, int) {
	l := &textLogprobs{Tokens: []string{}, Logprobs: []float64{}, Top: []map[string]float64{}, Offsets: []int{}}
	for _, tok := range tokens {
		s, _ := shown(t, tok.ID)
		top := map[string]float64{}
		for _, x := range tok.Top {
			// Tokens of half a rune look alike: the likeliest stands for all.
			if k, _ := shown(t, x.ID); top[k] == 0 {
				top[k] = finite(x.Logprob)
			}
		}
		// OpenAI: "as well as the chosen tokens", one more than asked for where the
		// chosen one is not among the likeliest.
		if _, ok := top[s]; !ok {
			top[s] = finite(tok.Logprob.Logprob)
		}
		l.Tokens = append(l.Tokens, s)
		l.Logprobs = append(l.Logprobs, finite(tok.Logprob.Logprob))
		l.Top = append(l.Top, top)
		l.Offsets = append(l.Offsets, offset)
		offset += utf8.RuneCountInString(s)
	}
	return l, offset
}

// head is what every document and every piece of an answer begins with.
type head struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	Model   string `json:"model"`
}

type chatMessage struct {
	Role    string  `json:"role"`
	Content string  `json:"content"`
	Refusal *string `json:"refusal"`
}

type chatChoice struct {
	Index    int           `json:"index"`
	Message  chatMessage   `json:"message"`
	Logprobs *chatLogprobs `json:"logprobs"`
	Finish   engine.Finish `json:"finish_reason"`
}

type chatDelta struct {
	Index int `json:"index"`
	Delta struct {
		Role    string  `json:"role,omitempty"`
		Content *string `json:"content,omitempty"`
	} `json:"delta"`
	Logprobs *chatLogprobs  `json:"logprobs"`
	Finish   *engine.Finish `json:"finish_reason"`
}

type textChoice struct {
	Index    int            `json:"index"`
	Text     string         `json:"text"`
	Logprobs *textLogprobs  `json:"logprobs"`
	Finish   *engine.Finish `json:"finish_reason"`
}

// document of an answer, whole or a piece of a stream.
type answer struct {
	head
	Choices any `json:"choices"`
	// Usage is null in the pieces of a stream that will end in one with it.
	Usage any `json:"usage,omitempty"`
}
