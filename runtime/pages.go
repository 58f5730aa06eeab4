package runtime

import "fmt"

// Pages of the KV cache have holders: each sequence that reads one, and who keeps one
// for later (a prefix cache). A page is free again when the last has dropped it.
// Sequences share only pages that are full, so that nobody writes where others read.

// FreePages is the number of KV pages that nobody holds.
func (s *Session) FreePages() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.free)
}

// Hold adds a holder to a page that has one already.
func (s *Session) Hold(page int32) {
	s.mu.Lock()
	s.holders[page]++
	s.mu.Unlock()
}

// Drop takes a holder away.
func (s *Session) Drop(page int32) {
	s.mu.Lock()
	s.drop(page)
	s.mu.Unlock()
}

// Holders is how many hold a page.
func (s *Session) Holders(page int32) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.holders[page])
}

func (s *Session) drop(page int32) {
	if s.holders[page]--; s.holders[page] == 0 {
		s.free = append(s.free, page)
	}
}

// take reserves n pages for one holder, all or none.
func (s *Session) take(pages []int32, n int) ([]int32, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > len(s.free) {
		return pages, false
	}
	for ; n > 0; n-- {
		last := len(s.free) - 1
		p := s.free[last]
		s.free = s.free[:last]
		s.holders[p] = 1
		pages = append(pages, p)
	}
	return pages, true
}

// Pages are the pages that hold the sequence's tokens, PageTokens in each but the
// last. The slice is only to be read, and until the sequence is used again.
func (q *Sequence) Pages() []int32 { return q.pages }

// Adopt appends the tokens of full pages that somebody holds, in the order of their
// positions, as if the sequence had been extended by them. The sequence's own pages
// must be full.
func (q *Sequence) Adopt(pages ...int32) error {
	size := q.s.plan.KV.PageTokens
	if q.n != len(q.pages)*size {
		return fmt.Errorf("runtime: adopting KV pages after %d tokens in %d pages: %w", q.n, len(q.pages), ErrShape)
	}
	if n := q.n + len(pages)*size; n > q.s.graph.Config.Context {
		return fmt.Errorf("runtime: %d tokens, the model's context is %d: %w", n, q.s.graph.Config.Context, ErrContext)
	}
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	for _, p := range pages {
		if p < 0 || int(p) >= len(q.s.holders) || q.s.holders[p] == 0 {
			return fmt.Errorf("runtime: adopting KV page %d, which nobody holds: %w", p, ErrInput)
		}
	}
	for _, p := range pages {
		q.s.holders[p]++
	}
	q.pages = append(q.pages, pages...)
	q.n += len(pages) * size
	return nil
}
