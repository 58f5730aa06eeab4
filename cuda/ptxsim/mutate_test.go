package ptxsim

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// tileKernel copies a 32x8 tile of words transposed through shared memory by
// cp.async, adds a warp sum, and guards the tail: a little of everything.
var tileKernel = kern(`
.reg .pred %q<4>;
setp.ge.u32 %q1, %r0, 60;
shl.b32 %r1, %r0, 2; mov.u32 %r2, dyn; add.u32 %r3, %r2, %r1;
mad.wide.u32 %rd1, %r0, 4, %rd0;
cp.async.ca.shared.global [%r3], [%rd1], 4;
cp.async.commit_group;
cp.async.wait_group 0;
bar.sync 0;
xor.b32 %r4, %r1, 128;
add.u32 %r4, %r2, %r4;
ld.shared.u32 %r5, [%r4];
shfl.sync.bfly.b32 %r6, %r5, 1, 31, -1;
shl.b32 %r6, %r6, 3;
add.s32 %r7, %r5, %r6;
@%q1 bra DONE;
st.global.u32 [%rd1], %r7;
DONE:`)

// tileTest runs the kernel and compares with Go.
func tileTest(ptx string) error {
	d := NewDevice(Config{MaxInstructions: 10000, Workers: 1})
	m, err := d.Load(ptx)
	if err != nil {
		return err
	}
	k, err := m.Kernel("k")
	if err != nil {
		return err
	}
	p, err := d.Alloc(256)
	if err != nil {
		return err
	}
	b := make([]byte, 256)
	for i := range b {
		if i%4 == 0 {
			b[i] = byte(i/4*3 + 1)
		}
	}
	if err := d.HtoD(p, b); err != nil {
		return err
	}
	if err := d.Launch(k, Dim3{}, Dim3{X: 64}, 256, p); err != nil {
		return err
	}
	out := make([]byte, 256)
	if err := d.DtoH(out, p); err != nil {
		return err
	}
	at := func(i int) int { return i*3 + 1 }
	for i := 0; i < 64; i++ {
		want := at(i)
		if i < 60 {
			want = at(i^32) + at(i^32^1)*8
		}
		if got := int(out[4*i]) | int(out[4*i+1])<<8 | int(out[4*i+2])<<16; got != want {
			return fmt.Errorf("word %d: got %d, want %d", i, got, want)
		}
	}
	return nil
}

func TestMutantsAreKilled(t *testing.T) {
	rep, err := RunMutants(tileKernel, "k", 0, tileTest)
	require.NoError(t, err)
	var text strings.Builder
	rep.Print(&text)
	t.Log(text.String())
	require.Empty(t, rep.Survived)
	require.Empty(t, rep.Invalid)
	kinds := map[string]bool{}
	for _, m := range rep.Killed {
		kinds[m.Kind] = true
	}
	for _, k := range []string{"wait", "barrier", "bounds", "addsub", "guard", "offset", "shuffle", "shift"} {
		require.True(t, kinds[k], k)
	}
}

// A test that looks at nothing lets every mutant live: the engine itself does
// not kill.
func TestMutantsSurviveABlindTest(t *testing.T) {
	rep, err := RunMutants(tileKernel, "k", 2, func(string) error { return nil })
	require.NoError(t, err)
	require.Zero(t, rep.Rate())
	require.Empty(t, rep.Killed)
	_, err = RunMutants(tileKernel, "k", 1, func(string) error { return ErrUnknown })
	require.ErrorIs(t, err, ErrUnknown, "a test that fails on the kernel itself proves nothing")
	n := len(rep.Survived)
	rep.Excuse("blind on purpose", func(m Mutant) bool { return m.Kind == "shift" })
	require.Len(t, rep.Excused, 2)
	require.Len(t, rep.Survived, n-2)
	_, err = RunMutants(tileKernel, "other", 1, tileTest)
	require.ErrorIs(t, err, ErrNotFound)
}

func TestMutantTexts(t *testing.T) {
	src := kern(`
mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, {%r5,%r6,%r7,%r8}, {%f1,%f2,%f3,%f4}, %r9, 0x0;
ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r1,%r2,%r3,%r4}, [%r9+32];
@%p1 cp.async.cg.shared.global [%r9], [%rd1], 16, %r2;
cp.async.wait_group 1;
@!%p2 bra OUT; OUT:
st.shared.v2.b32 [dyn+8], {%r1,%r2};`)
	muts, err := Mutants(src, "k", 0)
	require.NoError(t, err)
	var got []string
	for _, m := range muts {
		got = append(got, m.Kind+": "+strings.TrimSpace(m.text))
		_, err := parse(m.Apply(src))
		require.NoError(t, err, m.String())
	}
	for _, want := range []string{
		"fragment: mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4}, {%r1, %r3, %r2, %r4}, {%r5,%r6,%r7,%r8}, {%f1,%f2,%f3,%f4}, %r9, 0x0;",
		"selector: mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, {%r5,%r6,%r7,%r8}, {%f1,%f2,%f3,%f4}, %r9, 1;",
		"trans: ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1,%r2,%r3,%r4}, [%r9+32];",
		"offset: ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r1,%r2,%r3,%r4}, [%r9+48];",
		"offset: @%p1 cp.async.cg.shared.global [%r9+16], [%rd1], 16, %r2;",
		"offset: st.shared.v2.b32 [dyn+16], {%r1,%r2};",
		"guard: cp.async.cg.shared.global [%r9], [%rd1], 16, %r2;",
		"wait: cp.async.wait_group 2;",
		"wait: ;",
		"guard: ;",
	} {
		require.Contains(t, got, want)
	}
	few, err := Mutants(src, "k", 1)
	require.NoError(t, err)
	require.Less(t, len(few), len(muts))
}

// The correction of a signed division is left alone: it adds zero.
func TestMutantsSpareSignFixes(t *testing.T) {
	src := kern("shr.s32 %r1, %r0, 31; shr.u32 %r2, %r1, 27; add.s32 %r3, %r0, %r2; shr.s32 %r4, %r3, 5; add.s32 %r5, %r4, 1;")
	muts, err := Mutants(src, "k", 0)
	require.NoError(t, err)
	var got []string
	for _, m := range muts {
		got = append(got, m.Detail)
	}
	require.Equal(t, []string{
		"add.s32 %r5, %r4, 1; -> sub.s32 %r5, %r4, 1;",
		"shr.s32 %r4, %r3, 5; -> shr.s32 %r4, %r3, 6;",
	}, got)
}
