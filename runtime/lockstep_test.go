package runtime

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLockstep(t *testing.T) {
	s := fakeSession(t, Options{Context: 320, Chunk: 16, Select: 4})
	l := s.NewLockstep()
	a, b, c := s.NewSequence(), s.NewSequence(), s.NewSequence()
	ctx := context.Background()
	l.Reset()
	require.NoError(t, l.Add(a, []int32{1, 2, 3}, 1))
	require.NoError(t, l.Add(b, []int32{7}, 1))
	require.NoError(t, l.Add(c, []int32{20, 21}, 2))
	require.Equal(t, 6, l.Rows())
	require.ErrorIs(t, l.Add(c, make([]int32, 11), 0), ErrShape, "rows")
	require.ErrorIs(t, l.Add(c, []int32{1}, 1), ErrShape, "selected")
	require.ErrorIs(t, l.Add(c, nil, 0), ErrShape)
	require.ErrorIs(t, l.WantHidden(), ErrOption)
	require.NoError(t, l.Run(ctx))
	require.Equal(t, []int{3, 1, 2}, []int{a.Len(), b.Len(), c.Len()})
	require.EqualValues(t, 4, Argmax(l.Logits(0, 0)))
	require.EqualValues(t, 8, Argmax(l.Logits(1, 0)))
	require.EqualValues(t, 21, Argmax(l.Logits(2, 0)))
	require.EqualValues(t, 22, Argmax(l.Logits(2, 1)))
	require.EqualValues(t, 6, s.Counters().Tokens[Prefill])
	one := []int32{5}
	step := func() {
		l.Reset()
		for _, q := range []*Sequence{a, b, c} {
			if l.Add(q, one, 1) != nil {
				panic("add")
			}
		}
		if l.Run(ctx) != nil {
			panic("run")
		}
	}
	step()
	require.Zero(t, testing.AllocsPerRun(20, step), "a decode step makes no garbage")
	require.Positive(t, s.Counters().Tokens[Decode])
	other := fakeSession(t, Options{})
	l.Reset()
	require.ErrorIs(t, l.Add(other.NewSequence(), one, 1), ErrShape)
	require.NoError(t, l.Run(ctx), "nothing to do")
	for _, q := range []*Sequence{a, b, c} {
		q.Close()
	}
	require.Equal(t, 10, s.FreePages())
}

func TestSharedPages(t *testing.T) {
	s := fakeSession(t, Options{Context: 128})
	ctx := context.Background()
	a := s.NewSequence()
	_, err := a.Extend(ctx, make([]int32, 70), nil)
	require.NoError(t, err)
	full := a.Pages()[:2]
	b := s.NewSequence()
	require.NoError(t, b.Adopt(full...))
	require.Equal(t, 64, b.Len())
	require.Equal(t, 1, s.FreePages())
	require.Equal(t, 2, s.Holders(full[0]))
	_, err = b.Extend(ctx, []int32{3}, nil)
	require.NoError(t, err)
	require.Zero(t, s.FreePages())
	require.ErrorIs(t, b.Adopt(full...), ErrShape, "after a page that is not full")
	b.Truncate(40)
	_, err = b.Extend(ctx, []int32{3}, nil)
	require.ErrorIs(t, err, ErrInput, "a page that another reads is not written")
	s.Hold(full[0])
	page := full[0]
	a.Close()
	require.Equal(t, 2, s.FreePages(), "b still holds two, of which one is kept twice")
	b.Close()
	require.Equal(t, 3, s.FreePages())
	require.Equal(t, 1, s.Holders(page))
	s.Drop(page)
	require.Equal(t, 4, s.FreePages())
	require.ErrorIs(t, s.NewSequence().Adopt(page), ErrInput, "nobody holds it")
	require.ErrorIs(t, s.NewSequence().Adopt(-1), ErrInput)
}
