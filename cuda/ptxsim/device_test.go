package ptxsim

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDeviceMemory(t *testing.T) {
	d := NewDevice(Config{MemoryBytes: 10000})
	p, err := d.Alloc(6000)
	require.NoError(t, err)
	b := make([]byte, 4)
	require.NoError(t, d.DtoH(b, p+5996))
	require.Equal(t, []byte{255, 255, 255, 255}, b, "fresh memory is poisoned")
	require.ErrorIs(t, d.DtoH(b, p+5997), ErrInvalidValue)
	_, err = d.Alloc(4001)
	require.ErrorIs(t, err, ErrOutOfMemory)
	require.Equal(t, "cuMemAlloc: allocation of 4001 bytes, 6000 of 10000 in use: CUDA_ERROR_OUT_OF_MEMORY: out of memory", err.Error())
	_, err = d.Alloc(0)
	require.ErrorIs(t, err, ErrInvalidValue)
	q, err := d.Alloc(4000)
	require.NoError(t, err)
	require.NoError(t, d.Memset32(q, 0x01020304, 1000))
	require.NoError(t, d.Memset8(q+1, 9, 2))
	require.NoError(t, d.DtoD(p, q, 4))
	require.NoError(t, d.DtoH(b, p))
	require.Equal(t, uint32(0x01090904), binary.LittleEndian.Uint32(b))
	require.ErrorIs(t, d.Free(p+8), ErrInvalidValue)
	require.NoError(t, d.Free(p))
	require.ErrorIs(t, d.Free(p), ErrInvalidValue)
	require.ErrorIs(t, d.HtoD(p, b), ErrInvalidValue, "use after free")
	free, total, peak, n := d.MemInfo()
	require.Equal(t, []int64{6000, 10000, 10000, 1}, []int64{free, total, peak, int64(n)})
	for i := 0; i < 3*quarantine; i++ { // addresses are reused at last
		p, err := d.Alloc(16)
		require.NoError(t, err)
		require.NoError(t, d.Free(p))
	}
	require.Less(t, len(d.mem.table), 2*quarantine)
}

func TestFailuresOnDemand(t *testing.T) {
	d := NewDevice(Config{})
	require.NoError(t, d.ParseFaults("cuMemAlloc_v2:3:2; cuMemcpyHtoD:1:999"))
	require.ErrorContains(t, d.ParseFaults("x:0:2"), "n must be at least 1")
	require.ErrorContains(t, d.ParseFaults("x:1"), "call:n:result")
	for i := 0; i < 5; i++ {
		_, err := d.Alloc(16)
		if i == 2 {
			require.ErrorIs(t, err, ErrOutOfMemory)
		} else {
			require.NoError(t, err)
		}
	}
	p, _ := d.Alloc(16)
	require.ErrorIs(t, d.HtoD(p, make([]byte, 4)), ErrUnknown)
	require.NoError(t, d.HtoD(p, make([]byte, 4)))
	d.FailOn("cuLaunchKernel", 1, ErrLaunchFailed)
	m, err := d.Load(kern(""))
	require.NoError(t, err)
	k, _ := m.Kernel("k")
	require.ErrorIs(t, d.Launch(k, Dim3{}, Dim3{}, 0, p), ErrLaunchFailed)
	require.ErrorIs(t, d.HtoD(p, make([]byte, 4)), ErrLaunchFailed, "sticky")
	require.ErrorIs(t, d.Synchronize(), ErrLaunchFailed)
	d.Reset()
	require.NoError(t, d.Synchronize())
	_, err = d.Alloc(16)
	require.NoError(t, err)
}

func TestLaunchChecks(t *testing.T) {
	d := NewDevice(Config{Major: 8, Minor: 0})
	m, err := d.Load(strings.Replace(ptxHead, "sm_89", "sm_80", 1) + ".visible .entry k(.param .u32 a, .param .u64 b, .param .u8 c, .param .align 8 .b8 s[12]) .maxntid 64, 1, 1 { .shared .align 4 .b8 x[1024]; ret; }")
	require.NoError(t, err)
	k, err := m.Kernel("k")
	require.NoError(t, err)
	offs, sizes := k.ParamLayout()
	require.Equal(t, []int{0, 8, 16, 24}, offs)
	require.Equal(t, []int{4, 8, 1, 12}, sizes)
	args := []any{int32(1), Ptr(2), uint8(3), make([]byte, 12)}
	require.NoError(t, d.Launch(k, Dim3{X: 2}, Dim3{X: 64}, 0, args...))
	require.ErrorIs(t, d.Launch(k, Dim3{X: 2}, Dim3{X: 65}, 0, args...), ErrInvalidValue)
	require.ErrorIs(t, d.Launch(k, Dim3{Y: 70000}, Dim3{}, 0, args...), ErrInvalidValue)
	require.ErrorIs(t, d.Launch(k, Dim3{}, Dim3{}, 0, args[:3]...), ErrInvalidValue)
	require.ErrorIs(t, d.Launch(k, Dim3{}, Dim3{}, 0, int64(1), args[1], args[2], args[3]), ErrInvalidValue)
	require.ErrorIs(t, d.Launch(k, Dim3{}, Dim3{}, 47<<10+1, args...), ErrInvalidValue)
	require.NoError(t, d.Launch(k, Dim3{}, Dim3{}, 47<<10, args...))
	require.ErrorIs(t, k.SetMaxDynamicShared(163<<10), ErrInvalidValue)
	require.NoError(t, k.SetMaxDynamicShared(162<<10))
	require.NoError(t, d.Launch(k, Dim3{}, Dim3{}, 162<<10, args...))
	require.Equal(t, 1024, k.StaticShared())
	require.Equal(t, 64, k.MaxThreads())
	_, err = m.Kernel("nothing")
	require.ErrorIs(t, err, ErrNotFound)
	require.Equal(t, []string{"k"}, m.Names())
}

// TestModuleSharedVariables: a shared variable of the module is each kernel's own.
func TestModuleSharedVariables(t *testing.T) {
	d := NewDevice(Config{})
	m, err := d.Load(ptxHead + ".shared .align 4 .b8 a[64];\n.shared .align 4 .b8 b[256];\n" +
		".visible .entry one(.param .u64 out) { .reg .b32 %r<4>; mov.u32 %r1, b; st.shared.u32 [a], 1; st.shared.u32 [%r1+252], 2; ret; }\n" +
		".visible .entry two(.param .u64 out) { st.shared.u32 [b+4], 1; ret; }\n.visible .entry none() { ret; }\n")
	require.NoError(t, err)
	for name, size := range map[string]int{"one": 320, "two": 256, "none": 0} {
		k, err := m.Kernel(name)
		require.NoError(t, err)
		require.Equal(t, size, k.StaticShared(), name)
		if name != "none" {
			require.NoError(t, d.Launch(k, Dim3{}, Dim3{}, 0, Ptr(0)))
		}
	}
}
