//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/testenv"
)

// SPARSERUN_TEST_FSIZE gives the process a limit on the size of the files it writes.
func init() {
	inChild = append(inChild, func() {
		n := os.Getenv("SPARSERUN_TEST_FSIZE")
		if n == "" {
			return
		}
		v, err := strconv.ParseUint(n, 10, 64)
		if err == nil {
			err = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: v, Max: v})
		}
		if err != nil {
			panic(err)
		}
	})
}

// process is the command as a process of its own.
func process(t *testing.T, env []string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, args...)
	cmd.Env = append(append(os.Environ(), "SPARSERUN_TEST_MAIN=1"), env...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	return cmd, &errs
}

// TestSecondSignalKills: where a verb waits for what no context reaches, Ctrl-C twice ends it.
func TestSecondSignalKills(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600)) // nobody writes to it
	cmd, _ := process(t, nil, "prune", stories(t), "-o", pipe+".safetensors", "-m", "wanda", "--pattern", "2:4", "--calib", pipe, "-q")
	require.NoError(t, cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for range 50 { // the first ones may come before the program listens
		select {
		case err := <-done:
			require.Error(t, err)
			return
		case <-time.After(200 * time.Millisecond):
			require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
		}
	}
	require.NoError(t, cmd.Process.Kill())
	t.Fatal("it does not end")
}

func digestOf(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

// tinyStories are the arguments of a calibrated pruning of stories260K that takes a
// second or so, long enough to be killed in the middle of every block.
func tinyStories(t *testing.T, out string, extra ...string) []string {
	text := testenv.Data(t, "tinystories/moe-routing-bench-val.txt")
	return append([]string{"prune", stories(t), "-o", out, "--calib", text, "--calib-window", "256", "--calib-windows", "32", "-q"}, extra...)
}

// TestKilledWhilePruning: kill -9 when a block has just been finished, and at any
// other moment; the run that goes on, with another number of threads, writes the
// file that an undisturbed one writes, bit for bit. Until then there is no output,
// or the old one.
func TestKilledWhilePruning(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	rng, total := rand.New(rand.NewPCG(1, 2)), 0
	for _, method := range [][]string{{"-m", "sparsegpt", "--pattern", "2:4", "--quant", "int4"}, {"-m", "best", "--sparsity", "0.6"}, {"-m", "wanda", "--sparsity", "0.5", "--allocate", "owl"}} {
		dir := t.TempDir()
		whole, out, journal := filepath.Join(dir, "whole.safetensors"), filepath.Join(dir, "out.safetensors"), filepath.Join(dir, "journal")
		start := time.Now()
		cmd, errs := process(t, nil, tinyStories(t, whole, append(method, "-t", "2")...)...)
		require.NoError(t, cmd.Run(), errs.String())
		took := time.Since(start)
		want := digestOf(t, whole)
		require.NoError(t, os.WriteFile(out, []byte("old"), 0o644))

		kills, done := 0, false
		for i := 0; !done; i++ {
			require.Less(t, i, 60, "it never ends")
			cmd, errs := process(t, nil, tinyStories(t, out, append(method, "--journal", journal, "-t", strconv.Itoa(1+i%2))...)...)
			require.NoError(t, cmd.Start())
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			killed := false
			if i < 8 { // then it may go on to the end
				before := blocksIn(journal)
				if i%2 == 0 {
					for limit := time.Now().Add(took * 4); blocksIn(journal) == before && len(ended) == 0 && time.Now().Before(limit); {
						time.Sleep(200 * time.Microsecond)
					}
				} else {
					time.Sleep(time.Duration(rng.Float64() * 0.5 * float64(took)))
				}
				killed = len(ended) == 0
				_ = cmd.Process.Kill()
			}
			err := <-ended
			if done = err == nil; done {
				break
			}
			require.True(t, killed, "%v: %s", err, errs)
			kills++
			if b, err := os.ReadFile(out); err != nil || string(b) != "old" { // killed after it was done
				require.Equal(t, want, digestOf(t, out))
			}
		}
		t.Logf("%v: killed %d times in a run of %v", method, kills, took.Round(time.Millisecond))
		require.Positive(t, kills)
		total += kills
		require.Equal(t, want, digestOf(t, out), "%v", method)
		require.NoDirExists(t, journal)
		left, err := filepath.Glob(filepath.Join(dir, ".*"))
		require.NoError(t, err)
		for _, f := range left { // a kill while saving leaves a temporary file, which a later save removes
			require.Contains(t, f, "out.safetensors")
		}
	}
	require.GreaterOrEqual(t, total, 5)
}

func blocksIn(dir string) int {
	names, _ := filepath.Glob(filepath.Join(dir, "block-*.prune"))
	return len(names)
}

// checkFull holds a failed run to one clear line, and to leaving everything as it was.
func checkFull(t *testing.T, err error, errs, cause string, names ...string) {
	t.Helper()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, exitFailed, exit.ExitCode(), errs)
	require.Equal(t, 1, strings.Count(strings.TrimRight(errs, "\n"), "\n")+1, "one line: %q", errs)
	require.Contains(t, errs, cause)
	for _, n := range names {
		require.Contains(t, errs, n)
	}
}

// TestFileTooLarge: a limit on the size of files is an error like a full disk's.
func TestFileTooLarge(t *testing.T) {
	dir := t.TempDir()
	out, journal := filepath.Join(dir, "out.safetensors"), filepath.Join(dir, "journal")
	require.NoError(t, os.WriteFile(out, []byte("old"), 0o644))
	source := digestOf(t, filepath.Join(stories(t), "model.safetensors"))
	args := tinyStories(t, out, "-m", "wanda", "--pattern", "2:4")

	cmd, errs := process(t, []string{"SPARSERUN_TEST_FSIZE=100000"}, args...)
	checkFull(t, cmd.Run(), errs.String(), "file too large", out)
	cmd, errs = process(t, []string{"SPARSERUN_TEST_FSIZE=1000"}, append(args, "--journal", journal)...)
	checkFull(t, cmd.Run(), errs.String(), "file too large", "journal", "block-0000")

	b, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Equal(t, "old", string(b))
	require.Equal(t, source, digestOf(t, filepath.Join(stories(t), "model.safetensors")))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 2, "old output and the journal's empty folder")
	require.Zero(t, len(must(os.ReadDir(journal))))
}

// TestDiskFull: the same on a disk of a few blocks.
func TestDiskFull(t *testing.T) {
	full := t.TempDir()
	if err := syscall.Mount("tmpfs", full, "tmpfs", 0, "size=128k"); err != nil {
		t.Skipf("no right to mount a small disk (%v); TestFileTooLarge takes the same way", err)
	}
	defer syscall.Unmount(full, 0)
	out, journal := filepath.Join(full, "out.safetensors"), filepath.Join(full, "journal")
	require.NoError(t, os.WriteFile(out, []byte("old"), 0o644))
	args := tinyStories(t, out, "-m", "wanda", "--pattern", "2:4")
	cmd, errs := process(t, nil, args...)
	checkFull(t, cmd.Run(), errs.String(), "no space left on device", out)
	require.Equal(t, "old", string(must(os.ReadFile(out))))
	require.Len(t, must(os.ReadDir(full)), 1)

	// The journal fills it after a block or two; the next run, with room, goes on.
	other := filepath.Join(t.TempDir(), "out.safetensors")
	args = tinyStories(t, other, "-m", "wanda", "--pattern", "2:4", "--journal", journal)
	cmd, errs = process(t, nil, args...)
	checkFull(t, cmd.Run(), errs.String(), "no space left on device", "journal", "block-")
	require.NoFileExists(t, other)
	blocks := blocksIn(journal)
	require.Positive(t, blocks)
	require.Len(t, must(os.ReadDir(journal)), blocks, "no half-written block")
	require.NoError(t, syscall.Mount("tmpfs", full, "tmpfs", syscall.MS_REMOUNT, "size=8m"))
	cmd, errs = process(t, nil, args...)
	require.NoError(t, cmd.Run(), errs.String())
	whole := filepath.Join(t.TempDir(), "whole.safetensors")
	cmd, errs = process(t, nil, tinyStories(t, whole, "-m", "wanda", "--pattern", "2:4")...)
	require.NoError(t, cmd.Run(), errs.String())
	require.Equal(t, digestOf(t, whole), digestOf(t, other))
}
