package runtime

import (
	"context"
	"fmt"
	"time"

	"github.com/sparserun/sparserun/model"
)

// Lockstep advances many sequences of one session together: their tokens are the
// rows of one step, so that every weight is read once for all. It is used by one
// goroutine; in a steady state it allocates nothing.
//
//	l.Reset()
//	err := l.Add(q, tokens, 1) // for each sequence
//	err = l.Run(ctx)
//	logits := l.Logits(0, 0)   // after the last token of the first
type Lockstep struct {
	s     *Session
	parts []lockPart
	in    [5][]int32
	// Outputs of the step: logits of the selected rows, and, where they are asked
	// for, the hidden states of all rows.
	logits []float32
	hidden []float32
	want   bool
	views  [5]View
	result [2]View
	tally  Counters
}

type lockPart struct {
	q        *Sequence
	row, n   int
	selected int // first of its rows of logits
	logits   int
}

// NewLockstep makes one for a language model's session.
func (s *Session) NewLockstep() *Lockstep { return &Lockstep{s: s} }

// Reset empties the step.
func (l *Lockstep) Reset() {
	l.parts, l.want = l.parts[:0], false
	for i := range l.in {
		l.in[i] = l.in[i][:0]
	}
}

// Rows is the number of tokens in the step; Plan.MaxRows is the most.
func (l *Lockstep) Rows() int { return len(l.in[model.InTokens]) }

// Len is the number of sequences in the step.
func (l *Lockstep) Len() int { return len(l.parts) }

// Add appends tokens to a sequence, as part Len()-1 of the step; logits is how many
// of the last of them the next token's logits are wanted for. A sequence may be added
// once. The error wraps ErrContext where KV pages, or the model's context, are too
// few, ErrShape where the step would have too many rows; the step is then as before.
func (l *Lockstep) Add(q *Sequence, tokens []int32, logits int) error {
	p := l.s.plan
	if n := l.Rows() + len(tokens); len(tokens) == 0 || n > p.MaxRows || logits < 0 || logits > len(tokens) || len(l.in[model.InSelect])+logits > p.MaxSelect {
		return fmt.Errorf("runtime: %d tokens with logits of %d: a step has up to %d and %d, and %d and %d already: %w",
			len(tokens), logits, p.MaxRows, p.MaxSelect, l.Rows(), len(l.in[model.InSelect]), ErrShape)
	}
	if q.s != l.s {
		return fmt.Errorf("runtime: a sequence of another session: %w", ErrShape)
	}
	if err := q.grow(q.n + len(tokens)); err != nil {
		return err
	}
	part := lockPart{q: q, row: l.Rows(), n: len(tokens), selected: len(l.in[model.InSelect]), logits: logits}
	for i, t := range tokens {
		l.in[model.InTokens] = append(l.in[model.InTokens], t)
		l.in[model.InPos] = append(l.in[model.InPos], int32(q.n+i))
		l.in[model.InSeq] = append(l.in[model.InSeq], int32(len(l.parts)))
	}
	for i := len(tokens) - logits; i < len(tokens); i++ {
		l.in[model.InSelect] = append(l.in[model.InSelect], int32(part.row+i))
	}
	l.parts = append(l.parts, part)
	return nil
}

// WantHidden asks this step for the hidden states of all its rows; the session must
// have been made with Options.Hidden.
func (l *Lockstep) WantHidden() error {
	if l.s.norm == nil {
		return fmt.Errorf("runtime: hidden states of a session without Options.Hidden: %w", ErrOption)
	}
	l.want = true
	return nil
}

// Run computes the step. Sequences are as before where it fails.
func (l *Lockstep) Run(ctx context.Context) error {
	l.s.run.Lock()
	defer l.s.run.Unlock()
	return l.run(ctx)
}

// run is Run under the session's lock.
func (l *Lockstep) run(ctx context.Context) error {
	s := l.s
	if s.closed {
		return fmt.Errorf("runtime: session: %w", ErrClosed)
	}
	if len(l.parts) == 0 {
		return nil
	}
	cols, decode := 0, true
	for _, p := range l.parts {
		cols = max(cols, len(p.q.pages))
		decode = decode && p.n == 1
	}
	tables := l.in[model.InTables][:0]
	for _, p := range l.parts {
		tables = append(tables, p.q.pages...)
		for range cols - len(p.q.pages) {
			tables = append(tables, 0)
		}
	}
	l.in[model.InTables] = tables
	for i := range l.in {
		l.views[i] = View{Rows: len(l.in[i]), Cols: 1, I32: l.in[i]}
	}
	l.views[model.InTables] = View{Rows: len(l.parts), Cols: cols, I32: tables}
	vocab, rows := s.graph.Config.Vocab, len(l.in[model.InSelect])
	l.logits = sized(l.logits, rows*vocab)
	l.result[0] = View{Rows: rows, Cols: vocab, F32: l.logits}
	results := l.result[:1]
	if s.norm != nil {
		l.result[1] = View{}
		if l.want {
			w := s.graph.Config.Hidden
			l.hidden = sized(l.hidden, l.Rows()*w)
			l.result[1] = View{Rows: l.Rows(), Cols: w, F32: l.hidden}
		}
		results = l.result[:]
	}
	phase := Prefill
	if decode {
		phase = Decode
	}
	c := &l.tally
	clear(c.Ops)
	c.Tokens, c.Time = [phases]int64{}, [phases]time.Duration{}
	start := time.Now()
	if err := s.prog.Run(ctx, l.views[:], results, c); err != nil {
		return err
	}
	c.Tokens[phase] += int64(l.Rows())
	c.Time[phase] += time.Since(start)
	for _, p := range l.parts {
		p.q.n += p.n
	}
	s.mu.Lock()
	s.counters.Merge(c)
	s.mu.Unlock()
	return nil
}

// sized is x with n numbers, a new one where x is too small.
func sized(x []float32, n int) []float32 {
	if cap(x) < n {
		return make([]float32, n)
	}
	return x[:n]
}

// Logits are those after token i of a part's tokens that had logits asked for. The
// slice is the caller's to change until the next Run.
func (l *Lockstep) Logits(part, i int) []float32 {
	vocab := l.s.graph.Config.Vocab
	r := l.parts[part].selected + i
	return l.logits[r*vocab : (r+1)*vocab]
}

// Hidden writes the state of a part's token i after the final norm, Config.Hidden
// numbers, to dst.
func (l *Lockstep) Hidden(part, i int, dst []float32) {
	w := l.s.graph.Config.Hidden
	r := l.parts[part].row + i
	l.s.norm.apply(dst, l.hidden[r*w:(r+1)*w])
}
