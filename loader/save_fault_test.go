//go:build unix

package loader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
	"github.com/stretchr/testify/require"
)

// faultyDisk fails the n-th operation of a kind; everything else is the disk.
type faultyDisk struct {
	disk
	op    string
	n     int
	err   error
	count *int
}

func (d faultyDisk) hit(op string) bool {
	if op != d.op {
		return false
	}
	*d.count++
	return *d.count == d.n
}

func (d faultyDisk) create(path string) (outFile, error) {
	if d.hit("create") {
		return nil, &os.PathError{Op: "open", Path: path, Err: d.err}
	}
	f, err := d.disk.create(path)
	return faultyFile{f, d}, err
}

func (d faultyDisk) rename(from, to string) error {
	if d.hit("rename") {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: d.err}
	}
	return d.disk.rename(from, to)
}

func (d faultyDisk) syncDir(path string) error {
	if d.hit("syncDir") {
		return d.err
	}
	return d.disk.syncDir(path)
}

func (d faultyDisk) mkdir(path string) error {
	if d.hit("mkdir") {
		return &os.PathError{Op: "mkdir", Path: path, Err: d.err}
	}
	return d.disk.mkdir(path)
}

type faultyFile struct {
	outFile
	d faultyDisk
}

func (f faultyFile) Write(b []byte) (int, error) {
	if f.d.hit("short") {
		n, _ := f.outFile.Write(b[:len(b)/2])
		return n, nil
	}
	if f.d.hit("write") {
		n, _ := f.outFile.Write(b[:len(b)/2])
		return n, &os.PathError{Op: "write", Path: "tmp", Err: f.d.err}
	}
	return f.outFile.Write(b)
}

func (f faultyFile) Sync() error {
	if f.d.hit("sync") {
		return &os.PathError{Op: "sync", Path: "tmp", Err: f.d.err}
	}
	return f.outFile.Sync()
}

func (f faultyFile) Close() error {
	err := f.outFile.Close()
	if f.d.hit("close") {
		return &os.PathError{Op: "close", Path: "tmp", Err: f.d.err}
	}
	return err
}

// TestSaveFaults: whatever step of saving fails, the error is one line that names
// the file and the cause, and what was there before is there still, alone.
func TestSaveFaults(t *testing.T) {
	g, err := Open(testenv.Data(t, "stories260K"))
	require.NoError(t, err)
	defer g.Close()
	for _, out := range []string{"one.safetensors", "new/", "old/"} {
		for _, op := range []string{"create", "write", "short", "sync", "close", "rename", "syncDir", "mkdir"} {
			for n := 1; n <= 3; n++ {
				for _, cause := range []error{syscall.ENOSPC, syscall.EIO, syscall.EROFS} {
					dir := t.TempDir()
					path := dir + "/" + out
					if out == "one.safetensors" {
						require.NoError(t, os.WriteFile(path, []byte("old"), 0o644))
					}
					if out == "old/" {
						require.NoError(t, Save(g, path, SaveOptions{}))
					}
					before := tree(t, dir)
					count := 0
					err := Save(g, path, SaveOptions{DType: sparse.F32, fs: faultyDisk{op: op, n: n, err: cause, count: &count}})
					name := fmt.Sprint(out, " ", op, " ", n, " ", cause)
					if count < n {
						require.NoError(t, err, name)
						continue
					}
					require.Error(t, err, name)
					want := cause
					if op == "short" {
						want = io.ErrShortWrite
					}
					require.ErrorIs(t, err, want, name)
					require.NotContains(t, err.Error(), "\n")
					require.NotContains(t, err.Error(), tempMark, name)
					require.Contains(t, err.Error(), strings.TrimSuffix(out, "/"), name)
					after := tree(t, dir)
					for file := range after {
						require.NotContains(t, file, tempMark, name)
					}
					if op == "syncDir" || (op == "rename" && out == "old/" && n > 1) {
						continue // the new files are whole; only how durable they are, or the set, is in doubt
					}
					require.Equal(t, before, after, name)
				}
			}
		}
	}
}

// tree is every file below dir and its size.
func tree(t testing.TB, dir string) map[string]int64 {
	out := map[string]int64{}
	require.NoError(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		out[p] = st.Size()
		return err
	}))
	return out
}

// TestSaveCancel: the end of the context stops a save and leaves nothing.
func TestSaveCancel(t *testing.T) {
	g, err := Open(testenv.Data(t, "stories260K"))
	require.NoError(t, err)
	defer g.Close()
	for _, out := range []string{"m.safetensors", "m/"} {
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(context.Background())
		err := SaveContext(ctx, g, dir+"/"+out, SaveOptions{Progress: func(done, total int64) { cancel() }, DType: sparse.F32})
		require.ErrorIs(t, err, context.Canceled)
		require.Empty(t, tree(t, dir))
		list, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, list)
	}
}

// TestStaleTemps: the next save removes what a killed process left, not what a
// living one is writing.
func TestStaleTemps(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "m [1].safetensors")
	g, err := Open(testenv.Data(t, "stories260K"))
	require.NoError(t, err)
	defer g.Close()
	dead := filepath.Join(dir, ".m [1].safetensors"+tempMark+"999999999-1")
	alive := filepath.Join(dir, fmt.Sprintf(".m [1].safetensors%s%d-1", tempMark, os.Getpid()))
	fresh := filepath.Join(dir, ".m [1].safetensors"+tempMark+"999999998-1")
	other := filepath.Join(dir, ".n.safetensors"+tempMark+"999999999-1")
	for _, p := range []string{dead, alive, fresh, other} {
		require.NoError(t, os.WriteFile(p, []byte("x"), 0o644))
		if p != fresh {
			old := time.Now().Add(-2 * staleAfter)
			require.NoError(t, os.Chtimes(p, old, old))
		}
	}
	require.NoError(t, Save(g, path, SaveOptions{}))
	left := tree(t, dir)
	require.NotContains(t, left, dead)
	require.Len(t, left, 4)
}

func TestSaveRefuses(t *testing.T) {
	g, err := Open(write(t, "m", tinyGGUF("llama").bytes()))
	require.NoError(t, err)
	defer g.Close()
	dir := folder(t, map[string][]byte{fileIndex: []byte("{}")})
	require.ErrorIs(t, Save(g, dir, SaveOptions{}), ErrUnsupported)
	require.ErrorIs(t, Save(g, filepath.Join(dir, "x"), SaveOptions{DType: sparse.Int8}), ErrUnsupported)
	require.ErrorIs(t, Save(g, filepath.Join(dir, "no", "x"), SaveOptions{}), os.ErrNotExist)
	w, err := g.Weight("model.layers.0.mlp.up_proj.weight")
	require.NoError(t, err)
	x := read(t, w.Data)
	x[5] = 70000
	w.Data = sparse.NewDense(24, 16, x)
	err = Save(g, filepath.Join(dir, "x"), SaveOptions{})
	require.ErrorIs(t, err, ErrNonFinite)
	require.Contains(t, err.Error(), "up_proj")
	require.NoError(t, Save(g, filepath.Join(dir, "x"), SaveOptions{DType: sparse.BF16}))
	require.True(t, errors.Is(Save(g, "/proc/x.safetensors", SaveOptions{DType: sparse.F32}), os.ErrNotExist) ||
		errors.Is(Save(g, "/proc/x.safetensors", SaveOptions{DType: sparse.F32}), os.ErrPermission))
}
