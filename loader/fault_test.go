//go:build unix

package loader

import (
	"bytes"
	"fmt"
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
