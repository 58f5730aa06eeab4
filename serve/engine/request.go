package engine

import (
	"errors"
	"time"

	"github.com/sparserun/sparserun/runtime"
)

// Errors of this package; every error wraps one of them or one of package runtime's
// (ErrContext: the prompt does not fit, ErrOption: a number out of range).
var (
	ErrFull     = errors.New("queue is full")          // a *Busy: try again later
	ErrDraining = errors.New("shutting down")          // no new requests
	ErrClosed   = errors.New("closed")                 // the model was unloaded
	ErrDeadline = errors.New("deadline exceeded")      // Request.Deadline passed
	ErrInternal = errors.New("internal failure")       // a step failed or panicked; the request is lost, the engine goes on
	ErrKind     = errors.New("not that kind of model") // embeddings of a network, say
	ErrSchema   = errors.New("JSON schema")            // not one, or beyond what NewJSON knows
)

// Busy is ErrFull with the time after which trying again makes sense: the measured
// service time of what stands before the caller.
type Busy struct{ RetryAfter time.Duration }

// Error is one line.
func (b *Busy) Error() string { return ErrFull.Error() }

// Unwrap is ErrFull.
func (b *Busy) Unwrap() error { return ErrFull }

// Request asks for a continuation of Prompt.
type Request struct {
	ID     string  // in logs; need not be unique
	Client string  // whose turn it is in the fair queue, an API key's name say; "" is one client too
	Prompt []int32 // at least one token
	runtime.Sampling
	MaxTokens int      // 0: what the context leaves
	Stop      []string // the text ends before the first of these
	IgnoreEOS bool
	// Logprobs asks for the log-probability of each token, TopLogprobs (0..20) for
	// those of the likeliest tokens beside it: of the model's own distribution,
	// before temperature, bias, penalties and constraints.
	Logprobs    bool
	TopLogprobs int
	Logits      bool       // all logits of each token, as the model gave them: a whole vocabulary's
	Constraint  Constraint // nil: free text
	// Ready, with room for one token, is what Stream.Ready gives, so that one caller
	// waits for many requests; nil: each has its own.
	Ready    chan struct{}
	Deadline time.Time // zero: none
}

// Constraint restricts which tokens may come next, for JSON mode and the like. It
// belongs to one request and is called from one goroutine.
type Constraint interface {
	// Mask sets logits of tokens that may not come next to -Inf. eog says whether the
	// text may end here, else tokens that end generation are masked too.
	Mask(logits []float32) (eog bool)
	// Accept tells of the token that was drawn; done ends the text after it.
	Accept(id int32) (done bool)
}

// Budgeted is a Constraint that can end its text in time: Left says before each Mask
// how many tokens the text may still have, the next one included.
type Budgeted interface {
	Constraint
	Left(tokens int)
}

// Logprob is the log-probability of a token, in nats.
type Logprob struct {
	ID      int32
	Logprob float32
}

// Token is one that was generated.
type Token struct {
	Logprob
	Top    []Logprob // with Request.TopLogprobs, likeliest first
	Logits []float32 // with Request.Logits: that it was drawn from
}

// Usage counts the tokens of a request.
type Usage struct {
	Prompt int // tokens of the prompt
	Cached int // of which were found in the prefix cache
	Output int
}

// Finish says why a text ended.
type Finish string

// The reasons, as OpenAI's API spells them.
const (
	FinishStop   Finish = "stop"   // end token, stop string, or a constraint was fulfilled
	FinishLength Finish = "length" // MaxTokens, or the context is full
)

// Event is a piece of a continuation. Text is whole UTF-8 and never part of a stop
// string, so it may be empty though tokens came, and lag behind them.
type Event struct {
	Text   string
	Tokens []Token
	Finish Finish // set on the last event of a success
	Usage  Usage  // so far
}
