package loader

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

// TestTruncatedWhileOpen: a file that is cut after it was opened gives an error
// at the next read, by pread and through a map.
func TestTruncatedWhileOpen(t *testing.T) {
	for _, opts := range [][]Option{nil, {WithMmap()}} {
		path := write(t, "m", tinyGGUF("llama").bytes())
		g, err := Open(path, opts...)
		require.NoError(t, err)
		require.NoError(t, os.Truncate(path, 1024))
		for _, w := range g.Weights {
			_, err = sparse.Read(w.Data)
			require.ErrorIs(t, err, ErrTruncated, w.Name)
			_, err = sparse.Load(w.Data)
			require.ErrorIs(t, err, ErrTruncated, w.Name)
		}
		require.NoError(t, g.Close())
	}
}

// TestMapFault: the map's own fault, past the check of the file's size, is an
// error too and not the end of the process.
func TestMapFault(t *testing.T) {
	path := write(t, "m", bytes.Repeat([]byte{1}, 1<<16))
	src, err := openFile(path)
	require.NoError(t, err)
	defer src.Close()
	require.NoError(t, src.mmap())
	err = src.view(0, 1<<16, func(b []byte) error {
		require.NoError(t, os.Truncate(path, 0)) // between the check and the read
		sum := 0
		for _, x := range b {
			sum += int(x)
		}
		return fmt.Errorf("read %d", sum)
	})
	require.ErrorIs(t, err, ErrTruncated)

	// Another panic is a bug and stays one.
	require.NoError(t, os.WriteFile(path, make([]byte, 1<<16), 0o644))
	src2, err := openFile(path)
	require.NoError(t, err)
	defer src2.Close()
	require.NoError(t, src2.mmap())
	require.Panics(t, func() {
		_ = src2.view(0, 8, func(b []byte) error { return fmt.Errorf("%d", b[len(b)]) })
	})
}

func TestChangedWhileOpen(t *testing.T) {
	for _, opts := range [][]Option{nil, {WithMmap()}} {
		b := tinyGGUF("llama").bytes()
		path := write(t, "m", b)
		g, err := Open(path, opts...)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, append(b, 0), 0o644))
		_, err = sparse.Read(g.Weights[0].Data)
		require.ErrorIs(t, err, ErrChanged)
		require.NoError(t, g.Close())
	}
}

// TestKindsOfFile: only regular files are read; a FIFO does not block.
func TestKindsOfFile(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o644))
	_, err := Open(fifo)
	require.ErrorIs(t, err, ErrUnsupported)
	_, err = Open("/dev/null")
	require.ErrorIs(t, err, ErrUnsupported)
	_, err = Open(filepath.Join(dir, "absent"))
	require.ErrorIs(t, err, os.ErrNotExist)

	// A link that leads out of the folder is not followed, a FIFO in it not read.
	outside := write(t, "w", safeFile(tinySafe()...))
	in := folder(t, map[string][]byte{fileConfig: []byte(tinyConfig)})
	require.NoError(t, os.Symlink(outside, filepath.Join(in, fileWeights)))
	_, err = Open(in)
	require.Error(t, err)
	require.Contains(t, err.Error(), "escapes")
	require.NoError(t, os.Remove(filepath.Join(in, fileWeights)))
	require.NoError(t, syscall.Mkfifo(filepath.Join(in, fileWeights), 0o644))
	_, err = Open(in)
	require.ErrorIs(t, err, ErrUnsupported)
}

// TestRefusingIsCheap: large files made to waste memory are refused, or opened,
// within twice the file plus 64 MB of live memory.
func TestRefusingIsCheap(t *testing.T) {
	if testing.Short() {
		t.Skip("files of many MB")
	}
	tiny := tinyGGUF("llama")
	many := func(n int, f func(i int) string) []byte {
		var b bytes.Buffer
		for i := range n {
			b.WriteString(f(i))
		}
		return b.Bytes()
	}
	for name, file := range map[string][]byte{
		"4 M empty strings": tiny.set("x", ggufArray, append(append(le(uint32(ggufString)), le(uint64(4<<20))...), make([]byte, 32<<20)...)).bytes(),
		"4 M empty tokens":  tiny.set("tokenizer.ggml.tokens", ggufArray, append(append(le(uint32(ggufString)), le(uint64(4<<20))...), make([]byte, 32<<20)...)).bytes(),
		"60000 keys":        tiny.keys(60000).bytes(),
		"100000 tensors": safe("{"+string(many(100000, func(i int) string {
			return fmt.Sprintf(`"%d":{"dtype":"U8","shape":[],"data_offsets":[%d,%d]},`, i, i, i+1)
		}))+`"z":{"dtype":"U8","shape":[0],"data_offsets":[100000,100000]}}`, make([]byte, 100000)),
		"200000 tensors": safe("{"+string(many(200000, func(i int) string {
			return fmt.Sprintf(`"%d":{"dtype":"U8","shape":[],"data_offsets":[%d,%d]},`, i, i, i+1)
		}))+`"z":{"dtype":"U8","shape":[0],"data_offsets":[200000,200000]}}`, make([]byte, 200000)),
		"40 MB of metadata":       safe(`{"__metadata__":{"a":"`+strings.Repeat("x", 40<<20)+`"}}`, nil),
		"40 MB of escapes":        safe(`{"__metadata__":{"a":"`+strings.Repeat(`\n`, 20<<20)+`"}}`, nil),
		"a million metadata keys": safe(`{"__metadata__":{`+string(many(1000000, func(i int) string { return fmt.Sprintf(`"%d":"",`, i) }))+`"z":""}}`, nil),
		"header of zeros":         append(le(uint64(90<<20)), make([]byte, 90<<20)...),
		"header of brackets":      safe("{\"a\":"+strings.Repeat("[", 50<<20), nil),
		"index of zeros":          []byte(`{"metadata":[` + strings.Repeat("0,", 15<<20) + `0],"weight_map":{"a":"b"}}`),
		"tokens":                  safe(`{"__metadata__":{"sparserun.config":`+fmt.Sprintf("%q", tinyConfig)+`,"sparserun.tokenizer.sparserun_tokenizer.json":"{\"Tokens\":[`+strings.Repeat(`\"\",`, 8<<20)+`\"\"]}"}}`, nil),
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, "m", file)
			if name == "index of zeros" {
				path = folder(t, map[string][]byte{fileConfig: []byte(tinyConfig), fileIndex: file})
			}
			size := len(file)
			peak := watchHeap(func() {
				g, err := Open(path)
				if err == nil {
					g.Close()
				} else {
					require.NotContains(t, err.Error(), "\n")
				}
			})
			require.LessOrEqual(t, peak, uint64(2*size+64<<20))
		})
	}
}

// keys adds n keys of the least size.
func (s ggufSpec) keys(n int) ggufSpec {
	s.kvs = append([]kv(nil), s.kvs...)
	for i := range n {
		s.kvs = append(s.kvs, kv{fmt.Sprint(i), ggufU8, uint8(0)})
	}
	return s
}

// watchHeap runs f and returns the largest growth of the heap it saw.
func watchHeap(f func()) uint64 {
	goruntime.GC()
	var m goruntime.MemStats
	goruntime.ReadMemStats(&m)
	base, peak := m.HeapAlloc, m.HeapAlloc
	done, seen := make(chan struct{}), make(chan uint64)
	go func() {
		for {
			select {
			case <-done:
				seen <- peak
				return
			case <-time.After(time.Millisecond):
				goruntime.ReadMemStats(&m)
				peak = max(peak, m.HeapAlloc)
			}
		}
	}()
	f()
	close(done)
	peak = <-seen
	if peak < base {
		return 0
	}
	return peak - base
}

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

// TestConcurrentReads: many goroutines read one model; each sees its own rows.
func TestConcurrentReads(t *testing.T) {
	for _, opts := range [][]Option{nil, {WithMmap()}} {
		g, err := Open(testenv.Data(t, "compressed-tensors/tinyllama-sparse-24-fp8"), opts...)
		require.NoError(t, err)
		defer g.Close()
		want := make([][]float32, len(g.Weights))
		for i, w := range g.Weights {
			want[i] = read(t, w.Data)
		}
		var wg sync.WaitGroup
		for k := range 8 {
			wg.Go(func() {
				for i := range g.Weights {
					i = (i*5 + k*3) % len(g.Weights)
					r, c := g.Weights[i].Data.Dims()
					row := make([]float32, c)
					for j := range r {
						j = (j*7 + k) % r
						if err := g.Weights[i].Data.ReadRows(row, j); err != nil || !slices.Equal(row, want[i][j*c:(j+1)*c]) {
							t.Errorf("%s row %d: %v", g.Weights[i].Name, j, err)
							return
						}
					}
				}
			})
		}
		wg.Wait()
	}
}
