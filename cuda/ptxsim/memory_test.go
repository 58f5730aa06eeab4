package ptxsim

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLoadStoreWidths(t *testing.T) {
	// Words 0-3 of out hold a pattern; each case leaves one word in %r1.
	prep := "st.global.v4.u32 [%rd0], {%r20, %r21, %r22, %r23};"
	set := "mov.u32 %r20, 0x83828180; mov.u32 %r21, 0x07060504; mov.u32 %r22, 0x89abcdef; mov.u32 %r23, 0x00ff7f80;"
	for ins, want := range map[string]uint32{
		"ld.global.u8 %r1, [%rd0+1];":                                                                                                  0x81,
		"ld.global.s8 %r1, [%rd0+1];":                                                                                                  0xffffff81,
		"ld.global.u16 %r1, [%rd0+2];":                                                                                                 0x8382,
		"ld.global.s16 %r1, [%rd0+2];":                                                                                                 0xffff8382,
		"ld.global.s8 %h1, [%rd0+1]; cvt.s32.s16 %r1, %h1;":                                                                            0xffffff81,
		"ld.global.s8 %h1, [%rd0+1]; cvt.u32.u16 %r1, %h1;":                                                                            0xff81,
		"ld.global.b8 %h1, [%rd0]; cvt.u32.u16 %r1, %h1;":                                                                              0x80,
		"ld.global.u64 %rd1, [%rd0+8]; shr.u64 %rd1, %rd1, 32; cvt.u32.u64 %r1, %rd1;":                                                 0x00ff7f80,
		"ld.global.s32 %rd1, [%rd0]; shr.u64 %rd1, %rd1, 32; cvt.u32.u64 %r1, %rd1;":                                                   0xffffffff,
		"ld.global.u32 %rd1, [%rd0]; shr.u64 %rd1, %rd1, 32; cvt.u32.u64 %r1, %rd1;":                                                   0,
		"ld.global.v2.u32 {%r2, %r1}, [%rd0+8];":                                                                                       0x00ff7f80,
		"ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%r2, %r3, %r1, %r4}, [%rd0];":                                                   0x89abcdef,
		"ld.volatile.global.u32 %r1, [%rd0+4];":                                                                                        0x07060504,
		"ld.relaxed.gpu.global.u32 %r1, [%rd0+4];":                                                                                     0x07060504,
		"ld.u32 %r1, [%rd0+8];":                                                                                                        0x89abcdef,
		"ld.global.v4.u16 {%h1, %h2, %h3, %h4}, [%rd0]; cvt.u32.u16 %r1, %h4;":                                                         0x0706,
		"mov.u64 %rd2, 0x11; st.global.u8 [%rd0+3], %rd2; ld.global.u32 %r1, [%rd0];":                                                  0x11828180,
		"mov.u32 %r2, 0x1234567; st.global.u16 [%rd0+4], %r2; ld.global.u32 %r1, [%rd0+4];":                                            0x07064567,
		"mov.b64 %rd2, {%r20, %r21}; st.global.v2.b64 [%rd0], {%rd2, %rd2}; ld.global.u32 %r1, [%rd0+12];":                             0x07060504,
		"st.global.u32 [%rd0+8], 77; ld.global.u32 %r1, [%rd0+8];":                                                                     77,
		"ld.param.u32 %r1, [out+4]; cvt.u32.u64 %r2, %rd0; mov.b64 %rd2, {%r2, %r1}; sub.u64 %rd2, %rd2, %rd0; cvt.u32.u64 %r1, %rd2;": 0,
	} {
		got, err := exec(t, Config{}, set+prep+ins+"st.global.u32 [%rd0+16], %r1;", 1, 1, 0, 6)
		require.NoError(t, err, ins)
		require.Equal(t, want, got[4], "%s: %#x", ins, got[4])
	}
}

func TestBoundsAndAlignment(t *testing.T) {
	for ins, kind := range map[string]FaultKind{
		"ld.global.u32 %r1, [%rd0+24];":                                              KindBounds, // exactly behind
		"ld.global.u32 %r1, [%rd0+-4];":                                              KindBounds,
		"ld.global.v2.u32 {%r1, %r2}, [%rd0+20];":                                    KindAlignment,
		"ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd0+16];":                          KindBounds, // half inside
		"ld.global.u16 %r1, [%rd0+1];":                                               KindAlignment,
		"mov.u64 %rd1, 0; st.global.u32 [%rd1], %r0;":                                KindBounds,
		"mov.u64 %rd1, 64; ld.global.u32 %r1, [%rd1];":                               KindBounds,
		"mov.u32 %r1, 128; st.shared.u32 [%r1], %r0;":                                KindBounds,
		"mov.u32 %r1, 126; st.shared.u32 [%r1], %r0;":                                KindAlignment,
		"mov.u32 %r1, 120; st.shared.v4.u32 [%r1], {%r0,%r0,%r0,%r0};":               KindAlignment,
		"mov.u32 %r1, 0; st.shared.u32 [%r1+-4], %r0;":                               KindBounds,
		"atom.global.add.u32 %r1, [%rd0+24], 1;":                                     KindBounds,
		"atom.global.add.u32 %r1, [%rd0+2], 1;":                                      KindAlignment,
		"cp.async.ca.shared.global [dyn], [%rd0+24], 8;":                             KindBounds,
		"cp.async.ca.shared.global [dyn+4], [%rd0], 8;":                              KindAlignment,
		"cp.async.cg.shared.global [dyn], [%rd0+8], 16;":                             KindAlignment,
		"cp.async.cg.shared.global [dyn+128], [%rd0], 16;":                           KindBounds,
		".local .align 4 .b8 loc[8]; mov.u64 %rd1, loc; st.local.u32 [%rd1+8], %r0;": KindBounds,
		"ld.param.u64 %rd1, [out+8];":                                                KindBounds,
	} {
		_, err := exec(t, Config{}, ins, 1, 1, 128, 6)
		f := requireFault(t, err, kind)
		require.Equal(t, 8, f.Line, ins)
		want := ErrIllegalAddress
		if kind == KindAlignment {
			want = ErrMisalignedAddress
		}
		require.Equal(t, want, f.Result)
	}
	// In bounds to the last byte, with the guard in between.
	got, err := exec(t, Config{}, "st.global.u32 [%rd0+20], 5;", 1, 1, 0, 6)
	require.NoError(t, err)
	require.Equal(t, uint32(5), got[5])
}

func TestGenericAndOtherSpaces(t *testing.T) {
	got, err := exec(t, Config{}, `
.local .align 8 .b8 loc[16]; .shared .align 8 .b8 sh[16];
mov.u64 %rd1, sh; cvta.shared.u64 %rd2, %rd1; st.u32 [%rd2+4], 11; ld.shared.u32 %r1, [sh+4];
mov.u64 %rd3, loc; cvta.local.u64 %rd4, %rd3; st.local.u32 [loc+8], 22; ld.u32 %r2, [%rd4+8];
isspacep.shared %p1, %rd2; isspacep.global %p2, %rd0; isspacep.local %p3, %rd4; isspacep.global %p4, %rd2;
selp.b32 %r3, 1, 0, %p1; selp.b32 %r4, 2, 0, %p2; selp.b32 %r5, 4, 0, %p3; selp.b32 %r6, 8, 0, %p4;
add.u32 %r3, %r3, %r4; add.u32 %r3, %r3, %r5; add.u32 %r3, %r3, %r6;
st.global.u32 [%rd0], %r1; st.global.u32 [%rd0+4], %r2; st.global.u32 [%rd0+8], %r3;`, 1, 1, 0, 4)
	require.NoError(t, err)
	require.Equal(t, []uint32{11, 22, 7, 0}, got)
}

// TestLocalIsPerThread gives each thread its own frame.
func TestLocalIsPerThread(t *testing.T) {
	got, err := exec(t, Config{}, `.local .align 4 .b8 loc[4]; st.local.u32 [loc], %r0; bar.sync 0; ld.local.u32 %r1, [loc];`+storeR1, 1, 64, 0, 64)
	require.NoError(t, err)
	for i, g := range got {
		require.Equal(t, uint32(i), g)
	}
}

func TestModuleVariables(t *testing.T) {
	d := NewDevice(Config{})
	m, err := d.Load(ptxHead + `
.const .align 4 .b8 tbl[8] = {1, 0, 0, 0, 2, 0, 0, 0};
.global .align 4 .u32 counter = 7;
.global .align 8 .u64 where[2] = {counter, generic(tbl)+4};
.global .align 4 .f32 fs[3] = {0f3F800000, 2.5};
.visible .entry k(.param .u64 out) { .reg .b32 %r<9>; .reg .b64 %rd<9>;
ld.param.u64 %rd0, [out]; ld.const.u32 %r1, [tbl+4]; ld.global.u64 %rd1, [where]; ld.global.u32 %r2, [%rd1];
ld.global.u64 %rd2, [where+8]; ld.const.u32 %r3, [%rd2]; ld.global.u32 %r4, [fs+4]; ld.global.u32 %r5, [fs+8];
mov.u64 %rd3, counter; st.global.u32 [%rd3], 9;
st.global.v4.u32 [%rd0], {%r1, %r2, %r3, %r4}; st.global.u32 [%rd0+16], %r5; ret; }`)
	require.NoError(t, err)
	k, err := m.Kernel("k")
	require.NoError(t, err)
	out := put64(t, d, make([]uint64, 3))
	require.NoError(t, d.Launch(k, Dim3{}, Dim3{}, 0, out))
	require.Equal(t, []uint64{2 | 7<<32, 2 | 0x40200000<<32, 0}, get64(t, d, out, 3))
	p, n, err := m.Global("counter")
	require.NoError(t, err)
	require.Equal(t, 4, n)
	b := make([]byte, 4)
	require.NoError(t, d.DtoH(b, p))
	require.Equal(t, []byte{9, 0, 0, 0}, b)
	_, _, err = m.Global("nothing")
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorIs(t, d.Free(p), ErrInvalidValue, "module variables are not the caller's to free")
	require.NoError(t, m.Unload())
	require.ErrorIs(t, d.Launch(k, Dim3{}, Dim3{}, 0, out), ErrInvalidHandle)
}

func TestAtomics(t *testing.T) {
	// 4 blocks of 64 threads on the same words: out[0..] as the comments say.
	got, err := exec(t, Config{Seed: 3}, `
mov.u32 %r5, %ctaid.x; mad.lo.u32 %r6, %r5, 64, %r0;
red.global.add.u32 [%rd0], 1;                    // 256
atom.global.max.u32 %r1, [%rd0+4], %r6;          // 255
red.global.or.b32 [%rd0+8], %r6;                 // 255
cvt.rn.f32.u32 %f1, %r6; red.global.add.f32 [%rd0+12], %f1; // sum of 0..255
mov.u32 %r7, 0x3c004000; red.global.add.noftz.f16x2 [%rd0+16], %r7; // 256, 512
atom.global.inc.u32 %r1, [%rd0+20], 9;           // 256 mod 10
neg.s32 %r8, %r6; red.global.min.s32 [%rd0+24], %r8; // -255
red.global.add.u64 [%rd0+32], 3;                 // 768
atom.global.cas.b32 %r1, [%rd0+40], 0, 42;       // 42
atom.global.exch.b32 %r1, [%rd0+44], 17;         // 17
red.global.and.b32 [%rd0+48], 0x0f;
cvt.u16.u32 %h1, 0x3c00; atom.global.add.noftz.f16 %h2, [%rd0+54], %h1;`, 4, 64, 0, 14)
	require.NoError(t, err)
	require.Equal(t, []uint32{256, 255, 255, 0x46ff0000, 0x5c006000, 6, 0xffffff01, 0, 768, 0, 42, 17, 0, 0x5c000000}, got)
}

func TestSharedAtomics(t *testing.T) {
	got, err := exec(t, Config{}, `.shared .align 4 .u32 n; setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [n], 5; bar.sync 0;
atom.shared.add.u32 %r1, [n], 2; bar.sync 0; ld.shared.u32 %r1, [n];`+storeR1, 1, 96, 0, 96)
	require.NoError(t, err)
	for _, g := range got {
		require.Equal(t, uint32(5+192), g)
	}
	_, err = exec(t, Config{}, ".shared .align 4 .u32 n; atom.shared.add.u32 %r1, [n], 2;", 1, 32, 0, 1)
	requireFault(t, err, KindUninitShared)
	_, err = exec(t, Config{}, `.shared .align 4 .u32 n; setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [n], 5; bar.sync 0;
atom.shared.add.u32 %r1, [n], 2; @%p1 st.shared.u32 [n], 1;`, 1, 96, 0, 1)
	requireFault(t, err, KindRace)
}

func TestSharedRaces(t *testing.T) {
	addr := "mov.u32 %r5, dyn; shl.b32 %r2, %r0, 2; add.u32 %r2, %r2, %r5; xor.b32 %r3, %r2, "
	for _, c := range []struct {
		name, body string
		kind       FaultKind
	}{
		{"read after write, other warp", addr + "128; st.shared.u32 [%r2], %r0; ld.shared.u32 %r1, [%r3];", KindRace},
		{"with a barrier", addr + "128; st.shared.u32 [%r2], %r0; bar.sync 0; ld.shared.u32 %r1, [%r3];", ""},
		{"read after write, other lane", addr + "4; st.shared.u32 [%r2], %r0; ld.shared.u32 %r1, [%r3];", KindRace},
		{"with a warp barrier", addr + "4; st.shared.u32 [%r2], %r0; bar.warp.sync -1; ld.shared.u32 %r1, [%r3];", ""},
		{"own value", addr + "4; st.shared.u32 [%r2], %r0; ld.shared.u32 %r1, [%r2];", ""},
		{"write after read", addr + "128; st.shared.u32 [%r2], %r0; bar.sync 0; ld.shared.u32 %r1, [%r3]; st.shared.u32 [%r2], %r0;", KindRace},
		{"write after read, barrier", addr + "128; st.shared.u32 [%r2], %r0; bar.sync 0; ld.shared.u32 %r1, [%r3]; bar.sync 0; st.shared.u32 [%r2], %r0;", ""},
		{"write after write", "st.shared.u32 [dyn], %r0;", KindRace},
		{"warp barrier is not enough", addr + "128; st.shared.u32 [%r2], %r0; bar.warp.sync -1; ld.shared.u32 %r1, [%r3];", KindRace},
		{"bytes of one word by two warps", "shr.u32 %r2, %r0, 5; st.shared.u8 [%r2], %r0;", ""},
		{"the same byte", "shr.u32 %r2, %r0, 6; st.shared.u8 [%r2], %r0;", KindRace},
		{"uninitialised", "ld.shared.u32 %r1, [dyn];", KindUninitShared},
		{"half initialised", "st.shared.u16 [dyn+252], %h0; ld.shared.u32 %r1, [dyn+252];", KindUninitShared},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := int64(0); seed < 6; seed++ {
				body := "mov.u16 %h0, 1;" + c.body
				threads := 64
				if c.kind == KindUninitShared {
					threads = 32
				}
				// Without the poison check whoever comes first, the race is what is seen.
				cfg := Config{Seed: seed, NoUninit: c.kind == KindRace}
				_, err := exec(t, cfg, body, 1, threads, 256, 1)
				if c.kind == "" {
					require.NoError(t, err)
				} else {
					requireFault(t, err, c.kind)
				}
			}
		})
	}
	_, err := exec(t, Config{NoRaces: true, NoUninit: true}, "ld.shared.u32 %r1, [dyn]; st.shared.u32 [dyn], %r0;", 1, 64, 256, 1)
	require.NoError(t, err)
}

// TestAsyncCopies checks that copies land at the wait, not before.
func TestAsyncCopies(t *testing.T) {
	fill := "st.global.u32 [%rd0], 1; st.global.u32 [%rd0+4], 2; st.global.u32 [%rd0+8], 3; st.global.u32 [%rd0+12], 4;"
	one := "cp.async.ca.shared.global [dyn], [%rd0], 4; cp.async.commit_group;"
	two := "cp.async.ca.shared.global [dyn+16], [%rd0+4], 4; cp.async.commit_group;"
	for _, c := range []struct {
		name, body string
		want       uint32
		kind       FaultKind
	}{
		{"waited", one + "cp.async.wait_group 0; ld.shared.u32 %r1, [dyn];", 1, ""},
		{"not waited", one + "ld.shared.u32 %r1, [dyn];", 0, KindInFlight},
		{"older of two", one + two + "cp.async.wait_group 1; ld.shared.u32 %r1, [dyn];", 1, ""},
		{"newer of two", one + two + "cp.async.wait_group 1; ld.shared.u32 %r1, [dyn+16];", 0, KindInFlight},
		{"both", one + two + "cp.async.wait_group 0; ld.shared.u32 %r1, [dyn+16];", 2, ""},
		{"not committed", "cp.async.ca.shared.global [dyn], [%rd0], 4; cp.async.wait_group 0; ld.shared.u32 %r1, [dyn];", 0, KindInFlight},
		{"wait_all commits", "cp.async.ca.shared.global [dyn], [%rd0], 4; cp.async.wait_all; ld.shared.u32 %r1, [dyn];", 1, ""},
		{"source read late", one + "st.global.u32 [%rd0], 9; cp.async.wait_all; ld.shared.u32 %r1, [dyn];", 9, ""},
		{"written in flight", one + "st.shared.u32 [dyn], 5;", 0, KindInFlight},
		{"twice in flight", one + one, 0, KindInFlight},
		{"zero fill", "cp.async.cg.shared.global [dyn], [%rd0], 16, 8; cp.async.wait_all; ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [dyn];" +
			"add.u32 %r1, %r2, %r3; add.u32 %r1, %r1, %r4;", 2, ""},
		{"source size 0 reads nothing", "mov.u64 %rd1, 0; mov.u32 %r2, 0; cp.async.cg.shared.global [dyn], [%rd1], 16, %r2; cp.async.wait_all; ld.shared.u32 %r1, [dyn];", 0, ""},
		{"source size too large", "cp.async.ca.shared.global [dyn], [%rd0], 4, 8;", 0, KindOperand},
		{"ignored by predicate", "setp.eq.u32 %p1, %r0, 0; cp.async.ca.shared.global [dyn], [%rd0], 4, %p1; cp.async.wait_all; ld.shared.u32 %r1, [dyn];", 0, ""},
		{"8 bytes", "cp.async.ca.shared.global.L2::128B [dyn+8], [%rd0+8], 8; cp.async.wait_all; ld.shared.u32 %r1, [dyn+12];", 4, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := exec(t, Config{}, fill+c.body+"st.global.u32 [%rd0+16], %r1;", 1, 1, 64, 5)
			if c.kind != "" {
				requireFault(t, err, c.kind)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got[4])
		})
	}
	// A wait is the waiting thread's own: other warps need a barrier after it.
	body := "setp.lt.u32 %p1, %r0, 32; shl.b32 %r2, %r0, 2; mad.wide.u32 %rd1, %r0, 4, %rd0;" +
		"@%p1 cp.async.ca.shared.global [%r2], [%rd1], 4; cp.async.wait_all; %s xor.b32 %r2, %r2, 128; @!%p1 ld.shared.u32 %r1, [%r2];"
	for seed := int64(0); seed < 10; seed++ {
		_, err := exec(t, Config{Seed: seed}, strings.Replace(body, "%s", "bar.sync 0;", 1), 1, 64, 128, 32)
		require.NoError(t, err)
		_, err = exec(t, Config{Seed: seed}, strings.Replace(body, "%s", "", 1), 1, 64, 128, 32)
		require.Error(t, err)
	}
	// A stage must not be refilled while another warp still reads it.
	refill := "shl.b32 %r2, %r0, 2; st.shared.u32 [%r2], %r0; bar.sync 0; xor.b32 %r3, %r2, 128; ld.shared.u32 %r1, [%r3]; %s" +
		"and.b32 %r4, %r0, 3; mad.wide.u32 %rd1, %r4, 4, %rd0; cp.async.ca.shared.global [%r2], [%rd1], 4; cp.async.wait_all;"
	for seed := int64(0); seed < 10; seed++ {
		_, err := exec(t, Config{Seed: seed}, strings.Replace(refill, "%s", "bar.sync 0;", 1), 1, 64, 256, 32)
		require.NoError(t, err)
		_, err = exec(t, Config{Seed: seed}, strings.Replace(refill, "%s", "", 1), 1, 64, 256, 32)
		requireFault(t, err, KindRace)
	}
}

// TestRefillAfterRead: warp 1 reads a stage, warp 0 refills it, with nothing
// between. If warp 1 comes first only the check of earlier readers sees it.
func TestRefillAfterRead(t *testing.T) {
	body := "setp.lt.u32 %p1, %r0, 32; and.b32 %r4, %r0, 3; mad.wide.u32 %rd1, %r4, 4, %rd0; and.b32 %r2, %r0, 31; shl.b32 %r2, %r2, 2;" +
		"@%p1 st.shared.u32 [%r2], %r0; bar.sync 0; @!%p1 ld.shared.u32 %r1, [%r2]; @%p1 cp.async.ca.shared.global [%r2], [%rd1], 4; cp.async.wait_all;"
	for seed := int64(0); seed < 10; seed++ {
		_, err := exec(t, Config{Seed: seed, NoUninit: true}, body, 1, 64, 256, 32)
		var f *Fault
		require.ErrorAs(t, err, &f)
		require.Contains(t, []FaultKind{KindRace, KindInFlight}, f.Kind)
	}
}

// TestLdmatrix loads matrices whose element (j, r, c) is 64j+8r+c.
func TestLdmatrix(t *testing.T) {
	// Thread i < 32 stores halves 8i..8i+7: row i%8 of matrix i/8.
	fill := "mov.u32 %r10, 0;"
	for c := 0; c < 8; c += 2 {
		fill += fmt.Sprintf("shl.b32 %%r11, %%r0, 3; add.u32 %%r11, %%r11, %d; add.u32 %%r12, %%r11, 1; shl.b32 %%r12, %%r12, 16; or.b32 %%r%d, %%r11, %%r12;", c, 20+c/2)
	}
	fill += "shl.b32 %r13, %r0, 4; st.shared.v4.u32 [%r13], {%r20, %r21, %r22, %r23}; bar.warp.sync -1;"
	store := "mad.wide.u32 %rd9, %r0, 16, %rd0; st.global.v4.u32 [%rd9], {%r1, %r2, %r3, %r4};"
	for _, n := range []int{1, 2, 4} {
		for _, trans := range []bool{false, true} {
			op, regs := fmt.Sprintf("ldmatrix.sync.aligned.m8n8.x%d", n), "{%r1, %r2, %r3, %r4}"
			if n < 4 {
				regs = map[int]string{1: "{%r1}", 2: "{%r1, %r2}"}[n]
			}
			if trans {
				op += ".trans"
			}
			got, err := exec(t, Config{}, fill+"mov.u32 %r1,0; mov.u32 %r2,0; mov.u32 %r3,0; mov.u32 %r4,0;"+op+".shared.b16 "+regs+", [%r13];"+store, 1, 32, 512, 128)
			require.NoError(t, err)
			for l := 0; l < 32; l++ {
				for j := 0; j < 4; j++ {
					r, c := l/4, l%4*2
					lo, hi := 64*j+8*r+c, 64*j+8*r+c+1
					if trans {
						lo, hi = 64*j+8*c+r, 64*j+8*(c+1)+r
					}
					want := uint32(lo | hi<<16)
					if j >= n {
						want = 0
					}
					require.Equal(t, want, got[4*l+j], "%s lane %d matrix %d", op, l, j)
				}
			}
			// stmatrix puts them back, to another place; movmatrix agrees with .trans.
			if n == 4 {
				tr := ""
				if trans {
					tr = ".trans"
				}
				back := "stmatrix.sync.aligned.m8n8.x4" + tr + ".shared.b16 [%r13+512], " + regs + "; bar.warp.sync -1; ld.shared.v4.u32 {%r1,%r2,%r3,%r4}, [%r13+512];"
				got, err := exec(t, Config{}, fill+op+".shared.b16 "+regs+", [%r13];"+back+store, 1, 32, 1024, 128)
				require.NoError(t, err)
				for i, g := range got {
					require.Equal(t, uint32(2*i|(2*i+1)<<16), g)
				}
			}
		}
	}
	got, err := exec(t, Config{}, fill+"ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r5}, [%r13]; movmatrix.sync.aligned.m8n8.trans.b16 %r1, %r5;"+storeR1, 1, 32, 512, 32)
	require.NoError(t, err)
	for l, g := range got {
		require.Equal(t, uint32(8*(l%4*2)+l/4|(8*(l%4*2+1)+l/4)<<16), g)
	}
	_, err = exec(t, Config{}, fill+"ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r5}, [%r13+8];", 1, 32, 512, 32)
	requireFault(t, err, KindAlignment)
	_, err = exec(t, Config{}, strings.Replace(fill, "bar.warp.sync -1;", "", 1)+"ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r5}, [%r13];", 1, 32, 512, 32)
	requireFault(t, err, KindRace)
	_, err = exec(t, Config{}, fill+"setp.lt.u32 %p1, %r0, 16; @%p1 ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r5}, [%r13];", 1, 32, 512, 32)
	requireFault(t, err, KindDivergence)
}

func TestStatistics(t *testing.T) {
	stats := func(body string, shared int) *Stats {
		var st *Stats
		_, err := exec(t, Config{Workers: 1, Stats: true, NoUninit: true, OnLaunch: func(s *Stats) { st = s }}, body, 2, 32, shared, 1024)
		require.NoError(t, err)
		return st
	}
	for _, c := range []struct {
		stride, width string
		bytes         int
		phases        int64
		degree        int
	}{
		{"4", "u32 [%r2], %r0", 4, 1, 1},
		{"8", "u32 [%r2], %r0", 4, 1, 2},
		{"128", "u32 [%r2], %r0", 4, 1, 32},
		{"132", "u32 [%r2], %r0", 4, 1, 1},
		{"0", "u32 [%r2], %r0", 4, 1, 1}, // broadcast
		{"8", "v2.u32 [%r2], {%r0, %r0}", 8, 2, 1},
		{"16", "v4.u32 [%r2], {%r0, %r0, %r0, %r0}", 16, 4, 1},
		{"32", "v4.u32 [%r2], {%r0, %r0, %r0, %r0}", 16, 4, 2},
		{"128", "v4.u32 [%r2], {%r0, %r0, %r0, %r0}", 16, 4, 8},
		{"144", "v4.u32 [%r2], {%r0, %r0, %r0, %r0}", 16, 4, 1},
	} {
		st := stats("mul.lo.u32 %r2, %r0, "+c.stride+"; st.shared."+c.width+";", 8192)
		require.Len(t, st.Shared, 1)
		a := st.Shared[0]
		require.Equal(t, c.degree, a.MaxDegree, "%+v", c)
		require.Equal(t, c.degree, st.MaxDegree())
		require.Equal(t, 2*c.phases, a.Phases, "two blocks")
		require.Equal(t, 8, a.Line)
	}
	// ldmatrix: eight rows of 16 bytes a phase; a stride of 128 bytes hits the same banks.
	for stride, degree := range map[string]int{"16": 1, "128": 8, "144": 1, "64": 4} {
		st := stats("mul.lo.u32 %r2, %r0, "+stride+"; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r3,%r4,%r5,%r6}, [%r2];", 8192)
		require.Equal(t, degree, st.MaxDegree(), stride)
		require.Equal(t, int64(8), st.Shared[0].Phases)
	}
	st := stats("mad.wide.u32 %rd1, %r0, 4, %rd0; ld.global.u32 %r1, [%rd1]; mad.wide.u32 %rd1, %r0, 32, %rd0; ld.global.u32 %r1, [%rd1]; st.global.u32 [%rd0], %r1;", 0)
	require.Equal(t, Traffic{Requests: 4, Bytes: 512, Sectors: 2 * (4 + 32)}, st.GlobalLoads)
	require.Equal(t, Traffic{Requests: 2, Bytes: 256, Sectors: 2}, st.GlobalStores)
	require.Equal(t, int64(4), st.Opcodes["ld.global.u32"])
	require.Equal(t, int64(2*8), st.Instructions) // 2 of kern's head, 5 of the body, ret
}
