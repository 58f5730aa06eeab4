//go:build cgo

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// built is the folder to remove in the end.
var built string

// build makes libcuda.so.1 and the probe once.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "libcuda")
	if err != nil {
		return "", err
	}
	built = dir
	lib := filepath.Join(dir, "libcuda.so.1")
	for _, args := range [][]string{
		{"go", "build", "-buildmode=c-shared", "-ldflags=-extldflags=-Wl,-soname,libcuda.so.1", "-o", lib, "."},
		{"gcc", "-O1", "-o", filepath.Join(dir, "probe"), "testdata/probe.c", lib},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return dir, &buildError{strings.Join(args, " "), string(out), err}
		}
	}
	return dir, nil
})

type buildError struct {
	cmd, out string
	err      error
}

func (e *buildError) Error() string { return e.cmd + ": " + e.err.Error() + "\n" + e.out }

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

// probe runs the program with extra environment and gives its lines by key.
func probe(t *testing.T, env ...string) (string, string) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a shared library: not with -short")
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no gcc")
	}
	dir, err := build()
	require.NoError(t, err)
	cmd := exec.Command(filepath.Join(dir, "probe"))
	cmd.Env = append(os.Environ(), append(env, "LD_LIBRARY_PATH="+dir)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	return string(out), stderr.String()
}

func TestProgramUnderTheFakeDriver(t *testing.T) {
	out, stderr := probe(t)
	require.Equal(t, strings.TrimLeft(`
init: CUDA_SUCCESS
count: CUDA_SUCCESS
no context: CUDA_ERROR_INVALID_CONTEXT
version 13050 devices 1 name 'PTX simulator (no GPU)' cc 8.9 total 2147483648
context: CUDA_SUCCESS
current 1
elf: CUDA_ERROR_NO_BINARY_FOR_GPU
bad text: CUDA_ERROR_INVALID_PTX
log ptx: k: line 4: frobnicate.u32: unknown opcode: PTX that the simulator does not know
module: CUDA_SUCCESS
function: CUDA_SUCCESS
no function: CUDA_ERROR_NOT_FOUND
global: CUDA_SUCCESS
bias 5 size 4 max threads 64
alloc x: CUDA_SUCCESS
alloc y: CUDA_SUCCESS
alloc z: CUDA_SUCCESS
pinned: CUDA_SUCCESS
launch: CUDA_SUCCESS
y[0] 1 y[99] 199
too many threads: CUDA_ERROR_INVALID_VALUE
begin: CUDA_SUCCESS
end: CUDA_SUCCESS
instantiate: CUDA_SUCCESS
captured y[99] 199
synchronize: CUDA_SUCCESS
elapsed: CUDA_SUCCESS
replayed y[99] 793 elapsed 1
array: CUDA_ERROR_NOT_SUPPORTED
out of bounds: CUDA_ERROR_ILLEGAL_ADDRESS
after the fault: CUDA_ERROR_ILLEGAL_ADDRESS
destroy: CUDA_SUCCESS
context again: CUDA_SUCCESS
all free 1
`, "\n"), out)
	require.Contains(t, stderr, "axpy: line 11: ld.global.f32: block (")
	require.Contains(t, stderr, "out of bounds")
}

func TestFailuresFromTheEnvironment(t *testing.T) {
	out, _ := probe(t, "PTXSIM_FAIL=cuMemAlloc_v2:3:2,cuLaunchKernel:1:719")
	require.Contains(t, out, "alloc y: CUDA_SUCCESS\nalloc z: CUDA_ERROR_OUT_OF_MEMORY\n")
	require.Contains(t, out, "launch: CUDA_ERROR_LAUNCH_FAILED\n")
	require.Contains(t, out, "too many threads: CUDA_ERROR_LAUNCH_FAILED\n", "a launch failure must be sticky")
	require.Contains(t, out, "context again: CUDA_SUCCESS\n")

	out, _ = probe(t, "PTXSIM_DEVICES=0")
	require.Equal(t, "init: CUDA_ERROR_NO_DEVICE\n", out)

	out, _ = probe(t, "PTXSIM_MEM=1000", "PTXSIM_CC=12.0")
	require.Contains(t, out, "cc 12.0 total 1000\n")
	require.Contains(t, out, "alloc y: CUDA_SUCCESS\nalloc z: CUDA_ERROR_OUT_OF_MEMORY\n")
}
