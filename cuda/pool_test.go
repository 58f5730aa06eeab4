package cuda

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// fakeMemory hands out address ranges and fails beyond a limit.
type fakeMemory struct {
	next, used, limit int64
	live              map[Ptr]int64
}

func (f *fakeMemory) pool() *pool {
	f.next, f.live = 1<<32, map[Ptr]int64{}
	return &pool{alloc: func(n int64) (Ptr, error) {
		if f.used+n > f.limit {
			return 0, ErrOutOfMemory
		}
		p := Ptr(f.next)
		f.next += n + 4096
		f.used += n
		f.live[p] = n
		return p, nil
	}, free: func(p Ptr) error {
		n, ok := f.live[p]
		if !ok {
			return errors.New("not live")
		}
		delete(f.live, p)
		f.used -= n
		return nil
	}}
}

// TestPool: pieces never overlap, lie inside slabs, and all memory comes back.
func TestPool(t *testing.T) {
	f := &fakeMemory{limit: 1 << 30}
	p := f.pool()
	rng := rand.New(rand.NewPCG(1, 1))
	type given struct {
		at Ptr
		n  int64
	}
	var held []given
	for range 2000 {
		if len(held) > 0 && rng.IntN(3) == 0 {
			i := rng.IntN(len(held))
			require.NoError(t, p.put(held[i].at))
			held = append(held[:i], held[i+1:]...)
			continue
		}
		n := int64(rng.IntN(1 << 20))
		at, err := p.get(n)
		if err != nil {
			require.ErrorIs(t, err, ErrOutOfMemory)
			continue
		}
		require.Zero(t, at%poolAlign)
		inside := false
		for base, size := range f.live {
			inside = inside || (at >= base && at+Ptr(n) <= base+Ptr(size))
		}
		require.True(t, inside)
		for _, h := range held {
			require.False(t, at < h.at+Ptr(max(h.n, 1)) && h.at < at+Ptr(max(n, 1)), "overlap")
		}
		held = append(held, given{at, n})
	}
	require.Equal(t, f.used, p.stats.Reserved)
	require.GreaterOrEqual(t, p.stats.Peak, p.stats.Reserved)
	require.Equal(t, len(held), p.stats.Pieces)
	require.Equal(t, len(f.live), p.stats.Slabs)
	require.Equal(t, len(p.slabs), p.stats.Slabs)
	var used int64
	for _, h := range held {
		used += (max(h.n, 1) + poolAlign - 1) / poolAlign * poolAlign
	}
	require.Equal(t, used, p.stats.Used)
	for _, h := range held {
		require.NoError(t, p.put(h.at))
	}
	require.Zero(t, f.used)
	require.Zero(t, p.stats.Used+int64(p.stats.Pieces+p.stats.Slabs)+p.stats.Reserved)
	require.Error(t, p.put(held[0].at), "freed twice")
	_, err := p.get(-1)
	require.Error(t, err)
}

// TestPoolSmallDevice: where no slab fits, the piece itself may.
func TestPoolSmallDevice(t *testing.T) {
	f := &fakeMemory{limit: 1 << 20}
	p := f.pool()
	_, err := p.get(1 << 19)
	require.NoError(t, err)
	_, err = p.get(1 << 20)
	require.ErrorIs(t, err, ErrOutOfMemory)
	require.NoError(t, p.close())
	require.Zero(t, f.used)
}

func TestPick(t *testing.T) {
	im := Image{PTX: []byte("ptx"), Cubins: map[string][]byte{"80": []byte("80"), "86": []byte("86"), "89": []byte("89"), "90a": []byte("90a"), "100a": []byte("100a")}}
	for _, c := range []struct {
		major, minor int
		simulated    bool
		want         string
	}{
		{8, 0, false, "80"}, {8, 6, false, "86"}, {8, 7, false, "86"}, {8, 9, false, "89"}, {9, 0, false, "90a"}, {10, 0, false, "100a"},
		{10, 3, false, "ptx"}, {12, 0, false, "ptx"}, {7, 5, false, "ptx"}, {8, 0, true, "ptx"},
	} {
		require.Equal(t, c.want, string(im.pick(Info{Major: c.major, Minor: c.minor, Simulated: c.simulated})), "%d.%d", c.major, c.minor)
	}
}

// TestServes: kernels that a GPU may lack are no reason to hand its driver PTX.
func TestServes(t *testing.T) {
	im := Image{PTX: []byte("ptx"), Cubins: map[string][]byte{"89": []byte("89"), "120a": []byte("120a")}, MinCC: 89, Extra: true}
	for _, c := range []struct {
		info Info
		want bool
	}{
		{Info{Major: 8, Minor: 0}, false}, {Info{Major: 8, Minor: 0, Simulated: true}, false}, {Info{Major: 8, Minor: 9}, true},
		{Info{Major: 9, Minor: 0}, false}, {Info{Major: 9, Minor: 0, Simulated: true}, true}, {Info{Major: 12, Minor: 0}, true}, {Info{Major: 12, Minor: 1}, false},
	} {
		require.Equal(t, c.want, im.serves(c.info), "%+v", c.info)
	}
	im.Extra = false
	require.True(t, im.serves(Info{Major: 9, Minor: 0}), "all others run on PTX")
}

func TestDriverErrors(t *testing.T) {
	for code, want := range map[int]error{2: ErrOutOfMemory, 100: ErrNoDevice, 209: ErrArch, 719: ErrLost, 1: ErrDriver} {
		err := error(&DriverError{Call: "cuX", Code: code, Name: "N"})
		require.ErrorIs(t, err, want)
	}
}
