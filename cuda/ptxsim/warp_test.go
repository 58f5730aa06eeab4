package ptxsim

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// kern wraps a body into kernel k with one pointer parameter, in %rd0, and
// declares the usual registers.
func kern(body string) string {
	return ptxHead + ".extern .shared .align 16 .b8 dyn[];\n.visible .entry k(.param .u64 out) {\n" +
		".reg .b32 %r<40>; .reg .b64 %rd<20>; .reg .pred %p<10>; .reg .b16 %h<10>; .reg .f32 %f<20>;\n" +
		"ld.param.u64 %rd0, [out]; mov.u32 %r0, %tid.x;\n" + body + "\nret;\n}\n"
}

// exec launches kern(body) on a fresh device; out has n words of 4 bytes, zeroed.
func exec(t testing.TB, cfg Config, body string, grid, block, shared, n int) ([]uint32, error) {
	t.Helper()
	d := NewDevice(cfg)
	m, err := d.Load(kern(body))
	require.NoError(t, err)
	k, err := m.Kernel("k")
	require.NoError(t, err)
	out := put64(t, d, make([]uint64, (n+1)/2))
	if err := d.Launch(k, Dim3{X: grid}, Dim3{X: block}, shared, out); err != nil {
		return nil, err
	}
	var words []uint32
	for _, c := range get64(t, d, out, (n+1)/2) {
		words = append(words, uint32(c), uint32(c>>32))
	}
	return words[:n], nil
}

// storeR1 stores %r1 to out[thread].
const storeR1 = "\nmad.wide.u32 %rd9, %r0, 4, %rd0; st.global.u32 [%rd9], %r1;"

func TestShuffle(t *testing.T) {
	cases := []struct {
		ins  string
		want func(i int) int // source lane; -1: own value, predicate false
	}{
		{"shfl.sync.bfly.b32 %r1|%p1, %r0, 5, 31, -1;", func(i int) int { return i ^ 5 }},
		{"shfl.sync.up.b32 %r1|%p1, %r0, 3, 0, -1;", func(i int) int { return max(i-3, -1*b2i(i < 3)) }},
		{"shfl.sync.down.b32 %r1|%p1, %r0, 4, 31, -1;", func(i int) int {
			if i+4 > 31 {
				return -1
			}
			return i + 4
		}},
		{"shfl.sync.idx.b32 %r1|%p1, %r0, 7, 31, -1;", func(i int) int { return 7 }},
		// width 8: c = (32-8)<<8 | 31
		{"shfl.sync.idx.b32 %r1|%p1, %r0, 2, 6175, -1;", func(i int) int { return i&^7 | 2 }},
		{"shfl.sync.down.b32 %r1|%p1, %r0, 3, 6175, -1;", func(i int) int {
			if i&7+3 > 7 {
				return -1
			}
			return i + 3
		}},
		{"shfl.sync.up.b32 %r1|%p1, %r0, 3, 6144, -1;", func(i int) int {
			if i&7 < 3 {
				return -1
			}
			return i - 3
		}},
		{"shfl.sync.bfly.b32 %r1|%p1, %r0, 4, 6175, -1;", func(i int) int { return i ^ 4 }},
	}
	for _, c := range cases {
		got, err := exec(t, Config{}, c.ins+"@!%p1 add.u32 %r1, %r1, 1000;"+storeR1, 1, 32, 0, 32)
		require.NoError(t, err, c.ins)
		for i, g := range got {
			want := c.want(i)
			if want < 0 {
				want = i + 1000
			}
			require.Equal(t, uint32(want), g, "%s lane %d", c.ins, i)
		}
	}
}

func b2i(b bool) int { return int(b2u(b)) }

func TestShuffleFaults(t *testing.T) {
	// Lane 20 has left before lane 4 asks for it.
	_, err := exec(t, Config{}, "setp.eq.u32 %p1, %r0, 20; @%p1 ret; shfl.sync.bfly.b32 %r1, %r0, 16, 31, -1;", 1, 32, 0, 1)
	require.Contains(t, requireFault(t, err, KindOperand).Detail, "reads lane 20")
	// The source register is poisoned in one lane.
	_, err = exec(t, Config{}, "setp.ne.u32 %p1, %r0, 3; @%p1 mov.u32 %r2, 1; shfl.sync.bfly.b32 %r1, %r2, 1, 31, -1;", 1, 32, 0, 1)
	requireFault(t, err, KindPoison)
	// A lane executes that its own member mask leaves out.
	_, err = exec(t, Config{}, "shfl.sync.bfly.b32 %r1, %r0, 1, 31, 0x7fffffff;", 1, 32, 0, 1)
	requireFault(t, err, KindOperand)
	// Half the warp takes the shuffle, the member mask wants all, and the others
	// wait elsewhere. (Had they left, they would not be missed.)
	_, err = exec(t, Config{}, "setp.lt.u32 %p1, %r0, 16; @%p1 bra L; bar.warp.sync -1; bra E; L: shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1; E: mov.u32 %r2, 0;", 1, 32, 0, 1)
	requireFault(t, err, KindDivergence)
	// The same with the mask of that half is right.
	_, err = exec(t, Config{}, "setp.lt.u32 %p1, %r0, 16; @%p1 bra L; bra E; L: shfl.sync.bfly.b32 %r1, %r0, 1, 31, 0xffff; E: mov.u32 %r2, 0;", 1, 32, 0, 1)
	require.NoError(t, err)
}

func TestVoteMatchRedux(t *testing.T) {
	odd := "and.b32 %r2, %r0, 1; setp.ne.u32 %p1, %r2, 0;"
	for ins, want := range map[string]func(i int) uint32{
		odd + "vote.sync.ballot.b32 %r1, %p1, -1;":                        func(int) uint32 { return 0xaaaaaaaa },
		odd + "vote.sync.any.pred %p2, %p1, -1; selp.b32 %r1, 1, 0, %p2;": func(int) uint32 { return 1 },
		odd + "vote.sync.all.pred %p2, %p1, -1; selp.b32 %r1, 1, 0, %p2;": func(int) uint32 { return 0 },
		odd + "vote.sync.uni.pred %p2, %p1, -1; selp.b32 %r1, 1, 0, %p2;": func(int) uint32 { return 0 },
		odd + "@%p1 vote.sync.ballot.b32 %r1, %p1, 0xaaaaaaaa; @!%p1 mov.u32 %r1, 9;": func(i int) uint32 {
			if i&1 == 1 {
				return 0xaaaaaaaa
			}
			return 9
		},
		"and.b32 %r2, %r0, 3; match.any.sync.b32 %r1, %r2, -1;":                      func(i int) uint32 { return 0x11111111 << (i & 3) },
		"mov.u32 %r2, 7; match.all.sync.b32 %r1|%p1, %r2, -1; @!%p1 mov.u32 %r1, 1;": func(int) uint32 { return ^uint32(0) },
		"match.all.sync.b32 %r1|%p1, %r0, -1; @!%p1 add.u32 %r1, %r1, 1;":            func(int) uint32 { return 1 },
		"redux.sync.add.s32 %r1, %r0, -1;":                                           func(int) uint32 { return 31 * 16 },
		"redux.sync.max.u32 %r1, %r0, -1;":                                           func(int) uint32 { return 31 },
		"sub.s32 %r2, 5, %r0; redux.sync.min.s32 %r1, %r2, -1;":                      func(int) uint32 { return uint32(0xffffffff - 25) },
		"activemask.b32 %r1;":                                                        func(int) uint32 { return ^uint32(0) },
		"mov.u32 %r1, 0; setp.lt.u32 %p1, %r0, 5; @%p1 activemask.b32 %r1;": func(i int) uint32 {
			return 31 * uint32(b2u(i < 5))
		},
		"mov.u32 %r1, %lanemask_gt;":                       func(i int) uint32 { return uint32(^uint64(0) << (i + 1)) },
		"mov.u32 %r1, %lanemask_ge;":                       func(i int) uint32 { return ^uint32(0) << i },
		"mov.u32 %r1, %lanemask_le;":                       func(i int) uint32 { return uint32(uint64(2)<<i - 1) },
		"elect.sync %r2|%p1, -1; selp.b32 %r1, 1, 0, %p1;": func(i int) uint32 { return uint32(b2u(i == 0)) },
	} {
		got, err := exec(t, Config{}, ins+storeR1, 1, 32, 0, 32)
		require.NoError(t, err, ins)
		for i, g := range got {
			require.Equal(t, want(i), g, "%s lane %d", ins, i)
		}
	}
}

// TestDivergence runs loops with a different count per lane and nested branches,
// and checks that lanes meet again (a full-warp vote at the end).
func TestDivergence(t *testing.T) {
	body := `
mov.u32 %r1, 0; mov.u32 %r2, %r0;
LOOP: setp.eq.u32 %p1, %r2, 0; @%p1 bra OUT;
 and.b32 %r3, %r2, 1; setp.eq.u32 %p2, %r3, 0; @%p2 bra EVEN;
 mad.lo.u32 %r1, %r2, 3, %r1; bra JOIN;
EVEN: add.u32 %r1, %r1, %r2;
JOIN: sub.u32 %r2, %r2, 1; bra LOOP;
OUT: setp.ge.u32 %p3, %r1, 0; vote.sync.ballot.b32 %r4, %p3, -1; popc.b32 %r4, %r4; mad.lo.u32 %r1, %r4, 10000, %r1;` + storeR1
	for _, block := range []int{32, 7, 45} {
		got, err := exec(t, Config{}, body, 1, block, 0, block)
		require.NoError(t, err)
		for i, g := range got {
			want := 0
			for k := i; k > 0; k-- {
				if k%2 == 1 {
					want += 3 * k
				} else {
					want += k
				}
			}
			lanes := min(32, block-i/32*32)
			require.Equal(t, uint32(want+10000*lanes), g, "block %d thread %d", block, i)
		}
	}
}

// TestReconvergence: both sides of a branch meet at its end, the longer one first
// or last, and a third group that jumps over everything.
func TestReconvergence(t *testing.T) {
	got, err := exec(t, Config{}, `
and.b32 %r2, %r0, 3; setp.eq.u32 %p1, %r2, 1; setp.eq.u32 %p2, %r2, 2;
@%p1 bra ELSE; @%p2 bra JOIN;
add.u32 %r3, %r0, 1; activemask.b32 %r5; bra JOIN;
ELSE: add.u32 %r3, %r0, 2; add.u32 %r3, %r3, 2;
JOIN: activemask.b32 %r1;`+storeR1, 1, 32, 0, 32)
	require.NoError(t, err)
	for _, g := range got {
		require.Equal(t, ^uint32(0), g)
	}
}

// A guarded instruction leaves the other lanes' registers and predicates alone.
func TestGuardKeepsOtherLanes(t *testing.T) {
	got, err := exec(t, Config{}, `
setp.lt.u32 %p1, %r0, 16; setp.ge.u32 %p2, %r0, 8; mov.u32 %r1, 1; mov.u64 %rd1, 5;
@%p2 setp.gt.u32 %p1, %r0, 24; @%p2 mov.u32 %r1, 2; @!%p2 add.u64 %rd1, %rd1, 1;
@%p1 add.u32 %r1, %r1, 10; cvt.u32.u64 %r2, %rd1; mad.lo.u32 %r1, %r2, 100, %r1;`+storeR1, 1, 32, 0, 32)
	require.NoError(t, err)
	for i, g := range got {
		want := uint32(1 + 10 + 600) // below 8: the old %p1
		if i >= 8 {
			want = 2 + 500 + 10*uint32(b2u(i > 24))
		}
		require.Equal(t, want, g, "lane %d", i)
	}
}

// TestOutOfLineBlock has a block behind the loop that part of the warp visits in
// each round; the barrier at the loop's head must wait for it, not fail.
func TestOutOfLineBlock(t *testing.T) {
	got, err := exec(t, Config{}, `
mov.u32 %r1, 0; mov.u32 %r2, 0;
LOOP: bar.sync 0;
 and.b32 %r3, %r0, 1; setp.ne.u32 %p1, %r3, 0; @%p1 bra FAR;
BACK: add.u32 %r2, %r2, 1; setp.lt.u32 %p2, %r2, 4; @%p2 bra LOOP;
 bra END;
FAR: add.u32 %r1, %r1, 5; bra BACK;
END:`+storeR1, 1, 64, 0, 64)
	require.NoError(t, err)
	for i, g := range got {
		require.Equal(t, uint32(20*(i&1)), g)
	}
}

func TestBranchTable(t *testing.T) {
	got, err := exec(t, Config{}, `
and.b32 %r2, %r0, 3;
T: .branchtargets A, B, C, A;
brx.idx %r2, T;
A: mov.u32 %r1, 10; bra E;
B: mov.u32 %r1, 20; bra E;
C: mov.u32 %r1, 30;
E:`+storeR1, 1, 32, 0, 32)
	require.NoError(t, err)
	for i, g := range got {
		require.Equal(t, []uint32{10, 20, 30, 10}[i&3], g)
	}
}

// TestBlockBarriers passes a value round the warps through shared memory.
func TestBlockBarriers(t *testing.T) {
	body := `
mov.u32 %r5, dyn; shl.b32 %r2, %r0, 2; add.u32 %r2, %r2, %r5; mov.u32 %r1, %r0; mov.u32 %r3, 0;
LOOP: st.shared.u32 [%r2], %r1; bar.sync 0;
 add.u32 %r6, %r0, 33; rem.u32 %r6, %r6, 96; shl.b32 %r6, %r6, 2; add.u32 %r6, %r6, %r5;
 ld.shared.u32 %r1, [%r6]; bar.sync 0;
 add.u32 %r3, %r3, 1; setp.lt.u32 %p1, %r3, 3; @%p1 bra LOOP;` + storeR1
	for seed := int64(0); seed < 20; seed++ {
		got, err := exec(t, Config{Seed: seed}, body, 1, 96, 384, 96)
		require.NoError(t, err)
		for i, g := range got {
			require.Equal(t, uint32((i+99)%96), g)
		}
	}
	// Each of the two barriers is needed: without it there is a race whatever the order.
	for i := 0; i < 2; i++ {
		parts := strings.SplitN(body, "bar.sync 0;", 3)
		broken := parts[0] + parts[1] + "bar.sync 0;" + parts[2]
		if i == 1 {
			broken = parts[0] + "bar.sync 0;" + parts[1] + parts[2]
		}
		for seed := int64(0); seed < 20; seed++ {
			_, err := exec(t, Config{Seed: seed}, broken, 1, 96, 384, 96)
			require.Error(t, err)
		}
	}
}

func TestNamedBarriersAndReductions(t *testing.T) {
	// Warp 0 produces, warp 1 waits on barrier 3 for both; warp 2 is not part of it.
	got, err := exec(t, Config{Seed: 4}, `
mov.u32 %r1, 0; shr.u32 %r2, %r0, 5; setp.eq.u32 %p1, %r2, 0; setp.eq.u32 %p2, %r2, 1; and.b32 %r3, %r0, 31; shl.b32 %r3, %r3, 2;
@%p1 bra PRODUCE; @%p2 bra CONSUME; bra END;
PRODUCE: add.u32 %r4, %r0, 70; st.shared.u32 [%r3], %r4; bar.arrive 3, 64; bra END;
CONSUME: bar.sync 3, 64; ld.shared.u32 %r1, [%r3];
END:`+storeR1, 1, 96, 128, 96)
	require.NoError(t, err)
	for i, g := range got {
		require.Equal(t, uint32((i-32+70)*b2i(i/32 == 1)), g)
	}
	got, err = exec(t, Config{}, "setp.lt.u32 %p1, %r0, 40; bar.red.popc.u32 %r1, 0, %p1; bar.red.or.pred %p2, 0, %p1; bar.red.and.pred %p3, 0, %p1;"+
		"@%p2 add.u32 %r1, %r1, 1000; @%p3 add.u32 %r1, %r1, 5000;"+storeR1, 1, 64, 0, 64)
	require.NoError(t, err)
	for _, g := range got {
		require.Equal(t, uint32(1040), g)
	}
}

func TestBarrierFaults(t *testing.T) {
	_, err := exec(t, Config{}, "setp.lt.u32 %p1, %r0, 10; @%p1 bar.sync 0;", 1, 32, 0, 1)
	requireFault(t, err, KindDivergence)
	_, err = exec(t, Config{}, "shr.u32 %r1, %r0, 5; setp.eq.u32 %p1, %r1, 0; @%p1 bar.sync 1, 64; @!%p1 bar.sync 2, 64;", 1, 64, 0, 1)
	f := requireFault(t, err, KindDeadlock)
	require.Contains(t, f.Detail, "warp 1 at barrier 2")
	_, err = exec(t, Config{}, "bar.sync 1, 48;", 1, 64, 0, 1)
	requireFault(t, err, KindOperand)
	// Warps that have ended do not count.
	_, err = exec(t, Config{}, "setp.ge.u32 %p1, %r0, 32; @%p1 ret; bar.sync 0;", 1, 64, 0, 1)
	require.NoError(t, err)
}

func TestBudget(t *testing.T) {
	_, err := exec(t, Config{MaxInstructions: 5000}, "L: bra L;", 1, 32, 0, 1)
	requireFault(t, err, KindBudget)
	require.Equal(t, ErrLaunchTimeout, ResultOf(err))
}

func TestTrapAndPoison(t *testing.T) {
	_, err := exec(t, Config{}, "setp.eq.u32 %p1, %r0, 9; @%p1 trap;", 1, 32, 0, 1)
	require.Equal(t, Dim3{X: 9}, requireFault(t, err, KindTrap).Thread)

	_, err = exec(t, Config{}, "add.u32 %r1, %r7, 1;", 1, 32, 0, 1)
	f := requireFault(t, err, KindPoison)
	require.Contains(t, f.Detail, "%r7")
	require.Equal(t, "add.u32", f.Opcode)
	_, err = exec(t, Config{}, "@%p3 mov.u32 %r1, 1;", 1, 32, 0, 1)
	require.Contains(t, requireFault(t, err, KindPoison).Detail, "%p3")
	// A move carries poison without complaint, the use complains.
	_, err = exec(t, Config{}, "mov.u32 %r1, %r7; mov.b64 %rd1, {%r0, %r1};", 1, 32, 0, 1)
	require.NoError(t, err)
	_, err = exec(t, Config{}, "mov.u32 %r1, %r7; mov.b64 %rd1, {%r0, %r1}; mov.b64 {%r2, %r3}, %rd1; add.u32 %r2, %r3, 1;", 1, 32, 0, 1)
	requireFault(t, err, KindPoison)
	// Only some lanes are poisoned.
	_, err = exec(t, Config{}, "setp.lt.u32 %p1, %r0, 30; @%p1 mov.u32 %r1, 1; @%p1 add.u32 %r1, %r1, 1; add.u32 %r1, %r1, 1;", 1, 32, 0, 1)
	require.Equal(t, 30, requireFault(t, err, KindPoison).Thread.X)
	// selp needs only what it chooses.
	_, err = exec(t, Config{}, "setp.lt.u32 %p1, %r0, 99; selp.b32 %r1, %r0, %r7, %p1; add.u32 %r1, %r1, 1;", 1, 32, 0, 1)
	require.NoError(t, err)
}

// TestSpecialRegisters covers grids and blocks of three dimensions.
func TestSpecialRegisters(t *testing.T) {
	src := ptxHead + `.visible .entry k(.param .u64 out) { .reg .b32 %r<20>; .reg .b64 %rd<4>;
mov.u32 %r1, %tid.x; mov.u32 %r2, %tid.y; mov.u32 %r3, %tid.z; mov.u32 %r4, %ntid.x; mov.u32 %r5, %ntid.y; mov.u32 %r6, %ntid.z;
mov.u32 %r7, %ctaid.x; mov.u32 %r8, %ctaid.y; mov.u32 %r9, %ctaid.z; mov.u32 %r10, %nctaid.x; mov.u32 %r11, %nctaid.y;
mad.lo.u32 %r12, %r3, %r5, %r2; mad.lo.u32 %r12, %r12, %r4, %r1;
mad.lo.u32 %r13, %r9, %r11, %r8; mad.lo.u32 %r13, %r13, %r10, %r7;
mul.lo.u32 %r14, %r4, %r5; mul.lo.u32 %r14, %r14, %r6; mad.lo.u32 %r15, %r13, %r14, %r12;
mov.u32 %r16, %laneid; mov.u32 %r17, %warpid; shl.b32 %r17, %r17, 5; add.u32 %r16, %r16, %r17; sub.u32 %r16, %r16, %r12; add.u32 %r16, %r16, %r15;
ld.param.u64 %rd1, [out]; mad.wide.u32 %rd2, %r15, 4, %rd1; st.global.u32 [%rd2], %r16; ret; }`
	d := NewDevice(Config{})
	m, err := d.Load(src)
	require.NoError(t, err)
	k, err := m.Kernel("k")
	require.NoError(t, err)
	n := 2 * 3 * 2 * 5 * 3 * 4
	out := put64(t, d, make([]uint64, n/2))
	require.NoError(t, d.Launch(k, Dim3{2, 3, 2}, Dim3{5, 3, 4}, 0, out))
	for i, c := range get64(t, d, out, n/2) {
		require.Equal(t, uint64(2*i)|uint64(2*i+1)<<32, c)
	}
}

// TestSeedsAgree: a correct kernel gives the same result in every order, and a
// seed gives the same order each time.
func TestSeedsAgree(t *testing.T) {
	body := "atom.global.add.u32 %r1, [%rd0], 1;" + "add.u32 %r0, %r0, 1;" + storeR1
	orders := map[string]bool{}
	for seed := int64(0); seed < 8; seed++ {
		var first []uint32
		for i := 0; i < 2; i++ {
			got, err := exec(t, Config{Seed: seed, Quantum: 3, Workers: 1}, body, 1, 128, 0, 129)
			require.NoError(t, err)
			require.Equal(t, uint32(128), got[0])
			if i == 0 {
				first = got
			} else {
				require.Equal(t, first, got, "seed %d", seed)
			}
		}
		orders[fmt.Sprint(first)] = true
	}
	require.Greater(t, len(orders), 3, "seeds must change the order of warps")
}

func TestLoadNamesUnknownOpcodes(t *testing.T) {
	d := NewDevice(Config{})
	for body, what := range map[string]string{
		"wgmma.fence.sync.aligned;":      "wgmma.fence.sync.aligned: unknown opcode",
		"add.u32.frob %r1, %r0, 1;":      "suffix .frob",
		"shfl.bfly.b32 %r1, %r0, 1, 31;": "form of shfl",
		"ld.global.b128 %r1, [%rd0];":    "ld.global.b128",
		"mov.u32 %r1, %nonsense;":        "unknown register %nonsense",
		"add.u64 %rd1, %r1, %r2;":        "not of 8 bytes",
		"cp.async.bulk.commit_group;":    "form of cp.async",
		"mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%rd1},{%rd1},{%rd1},{%rd1};": "mma.sync",
	} {
		_, err := d.Load(kern(body))
		require.ErrorIs(t, err, ErrUnsupported, body)
		require.ErrorContains(t, err, what)
		require.ErrorContains(t, err, "k: line 8")
		require.Equal(t, ErrInvalidPTX, ResultOf(err))
	}
	_, err := d.Load(kern("bra NOWHERE;"))
	require.ErrorIs(t, err, ErrSyntax)

}
