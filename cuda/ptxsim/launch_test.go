package ptxsim

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRecalledText: a long text is decoded once, and its modules stay apart.
func TestRecalledText(t *testing.T) {
	src := kern("st.global.u32 [%rd0], 7;") + strings.Repeat("\n", recallMin)
	var ks []*Kernel
	for i := 0; i < 2; i++ {
		d := NewDevice(Config{})
		m, err := d.Load(src)
		require.NoError(t, err)
		k, err := m.Kernel("k")
		require.NoError(t, err)
		out := put64(t, d, []uint64{0})
		require.NoError(t, d.Launch(k, Dim3{}, Dim3{X: 32}, 0, out))
		require.NoError(t, d.Launch(k, Dim3{}, Dim3{X: 64}, 0, out), "another block size after the machine was kept")
		require.Equal(t, []uint64{7}, get64(t, d, out, 1))
		ks = append(ks, k)
	}
	require.Same(t, ks[0].code, ks[1].code)
	require.NoError(t, ks[0].SetMaxDynamicShared(60<<10))
	require.Equal(t, 48<<10, ks[1].MaxDynamicShared())
	require.NoError(t, ks[0].mod.Unload())
	require.ErrorIs(t, ks[0].mod.dev.Launch(ks[0], Dim3{}, Dim3{}, 0, Ptr(0)), ErrInvalidHandle)

	withVar := ".global .u32 v = 1;\n" + strings.Repeat("\n", recallMin)
	for i := 0; i < 2; i++ {
		_, err := NewDevice(Config{}).Load(ptxHead + withVar)
		require.NoError(t, err)
	}
	require.Nil(t, recall(ptxHead+withVar), "code with addresses in it is not shared")
}

// TestMachineIsCleanAfterUse: nothing of one launch is left for the next.
func TestMachineIsCleanAfterUse(t *testing.T) {
	d := NewDevice(Config{Workers: 1})
	m, err := d.Load(ptxHead + `.visible .entry k(.param .u32 first) { .reg .b32 %r<4>; .reg .pred %p<3>; .shared .align 4 .b8 s[4];
ld.param.u32 %r0, [first]; setp.ne.u32 %p1, %r0, 0; @%p1 mov.u32 %r1, 3; @%p1 st.shared.u32 [s], %r0; @%p1 bra END;
add.u32 %r2, %r1, 1; END: ret; }`)
	require.NoError(t, err)
	k, err := m.Kernel("k")
	require.NoError(t, err)
	require.NoError(t, d.Launch(k, Dim3{X: 3}, Dim3{}, 0, 1))
	requireFault(t, d.Launch(k, Dim3{X: 3}, Dim3{}, 0, 0), KindPoison)
}

func TestTargetMustFit(t *testing.T) {
	load := func(target string, major, minor int) error {
		_, err := NewDevice(Config{Major: major, Minor: minor}).Load(".version 8.5\n.target " + target + "\n.address_size 64\n.entry k() { ret; }")
		return err
	}
	require.NoError(t, load("sm_80", 8, 0))
	require.NoError(t, load("sm_80", 12, 0))
	require.NoError(t, load("sm_90a", 9, 0))
	err := load("sm_89", 8, 6)
	require.ErrorIs(t, err, ErrInvalidPTX)
	require.EqualError(t, err, "ptx: .target sm_89 on a device of sm_86: CUDA_ERROR_INVALID_PTX: a PTX JIT compilation failed")
	require.ErrorIs(t, load("sm_90a", 10, 0), ErrInvalidPTX)
	require.ErrorIs(t, load("compute", 8, 9), ErrInvalidPTX)
}
