package engine

import (
	"container/list"

	"github.com/sparserun/sparserun/runtime"
)

// prefixCache keeps full KV pages of past requests, found by their tokens and all
// tokens before them. A page's key has its own tokens and the page before it, not a
// hash of them: two prompts never share what is not equal, whoever wrote them.
//
// Whatever is touched touches all that stands before it afterwards, so that the
// least recently used page has no successor that was used later.
type prefixCache struct {
	s    *runtime.Session
	by   map[prefixKey]*prefix
	old  *list.List // of *prefix, the most recently used first
	last uint64
	gone uint64 // evictions
}

type prefixKey struct {
	before uint64 // id of the page before, 0 at the beginning
	tokens [runtime.PageTokens]int32
}

// prefix is one page.
type prefix struct {
	key    prefixKey
	id     uint64
	page   int32
	before *prefix
	next   int // pages that follow in the cache
	at     *list.Element
}

func newPrefixCache(s *runtime.Session) *prefixCache {
	return &prefixCache{s: s, by: map[prefixKey]*prefix{}, old: list.New()}
}

func keyAfter(p *prefix, tokens []int32) prefixKey {
	k := prefixKey{tokens: [runtime.PageTokens]int32(tokens)}
	if p != nil {
		k.before = p.id
	}
	return k
}

// find is the page after p (nil: the first) with these tokens; nil: there is none.
func (c *prefixCache) find(p *prefix, tokens []int32) *prefix {
	return c.by[keyAfter(p, tokens)]
}

// add keeps a page, which somebody holds, after p, unless one of equal tokens is
// there already, and returns the one that is there.
func (c *prefixCache) add(p *prefix, tokens []int32, page int32) *prefix {
	if p != nil && c.by[p.key] != p {
		return p // evicted: nobody would find what follows
	}
	k := keyAfter(p, tokens)
	if e := c.by[k]; e != nil {
		return e
	}
	c.s.Hold(page)
	c.last++
	e := &prefix{key: k, id: c.last, page: page, before: p}
	if p != nil {
		p.next++
	}
	e.at = c.old.PushFront(e)
	c.by[k] = e
	return e
}

// touch marks a page and all before it as used now.
func (c *prefixCache) touch(e *prefix) {
	for ; e != nil; e = e.before {
		c.old.MoveToFront(e.at)
	}
}

// evict gives the page back that nobody uses and that was not used for longest;
// false: every page is in use.
func (c *prefixCache) evict() bool {
	for at := c.old.Back(); at != nil; at = at.Prev() {
		e := at.Value.(*prefix)
		if e.next == 0 && c.s.Holders(e.page) == 1 {
			c.drop(e)
			c.gone++
			return true
		}
	}
	return false
}

func (c *prefixCache) drop(e *prefix) {
	delete(c.by, e.key)
	c.old.Remove(e.at)
	if e.before != nil {
		e.before.next--
	}
	c.s.Drop(e.page)
}

// idle is the number of pages that only the cache holds.
func (c *prefixCache) idle() int {
	n := 0
	for at := c.old.Front(); at != nil; at = at.Next() {
		if c.s.Holders(at.Value.(*prefix).page) == 1 {
			n++
		}
	}
	return n
}

// clear gives all pages back.
func (c *prefixCache) clear() {
	for at := c.old.Back(); at != nil; at = c.old.Back() {
		c.drop(at.Value.(*prefix))
	}
}
