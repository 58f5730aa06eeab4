package serve

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/serve/registry"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
	"github.com/sparserun/sparserun/tokenizer"
)

// clientEnv makes this test binary the client of BenchmarkOverhead, a process of its own.
const clientEnv = "SPARSERUN_OVERHEAD_CLIENT"

// overheadClient posts each line of stdin to url and answers with the nanoseconds from
// the first event to the last. "raw" is a blocking read of the socket, the cheapest
// client there is: what it sees is the server's cost. "json" is a Go program that
// decodes every event; its own work is on the same cores.
func overheadClient(kind, url string) error {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		read := drainRaw
		if kind == "json" {
			read = readJSON
		}
		first, last, err := read(url, in.Text())
		if err != nil {
			return err
		}
		fmt.Println(last.Sub(first).Nanoseconds())
	}
	return in.Err()
}

func readJSON(url, body string) (first, last time.Time, err error) {
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return first, last, err
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	for sc.Scan() {
		data, ok := bytes.CutPrefix(sc.Bytes(), []byte("data: "))
		if !ok || bytes.Equal(data, []byte("[DONE]")) {
			continue
		}
		var c struct {
			Choices []struct{ Text string }
			Error   json.RawMessage
		}
		if err := json.Unmarshal(data, &c); err != nil || c.Error != nil {
			return first, last, fmt.Errorf("%s: %v", data, err)
		}
		if last = time.Now(); first.IsZero() {
			first = last
		}
	}
	if sc.Err() == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	return first, last, errors.Join(err, sc.Err())
}

func drainRaw(url, body string) (first, last time.Time, err error) {
	host, path, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
	c, err := net.Dial("tcp", host)
	if err != nil {
		return first, last, err
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	f, err := c.(*net.TCPConn).File() // a copy that Go's poller does not know of
	if err != nil {
		return first, last, err
	}
	defer f.Close()
	fd := int(f.Fd())
	if err := syscall.SetNonblock(fd, false); err != nil {
		return first, last, err
	}
	buf := make([]byte, 64<<10)
	for {
		// Go's scheduler is not told: it would wake a thread of its own at every read.
		r, _, fault := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
		n := int(r)
		if fault == syscall.EINTR {
			continue
		}
		if fault != 0 || n == 0 {
			return first, last, fmt.Errorf("the stream broke off: %v", fault)
		}
		if last = time.Now(); first.IsZero() {
			if first = last; !bytes.HasPrefix(buf[:n], []byte("HTTP/1.1 200")) {
				return first, last, fmt.Errorf("%.100q", buf[:n])
			}
		}
		if bytes.Contains(buf[:n], []byte("[DONE]")) {
			return first, last, nil
		}
	}
}

// remote is an overheadClient's other end.
type remote struct {
	in  io.WriteCloser
	out *bufio.Scanner
	cmd *exec.Cmd
}

func startRemote(b *testing.B, kind, url string) *remote {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "GOGC=off", clientEnv+"="+kind+" "+url)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(b, err)
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	r := &remote{in, bufio.NewScanner(out), cmd}
	b.Cleanup(func() { r.close() })
	return r
}

func (r *remote) close() (cpu time.Duration) {
	r.in.Close()
	r.cmd.Wait()
	if u, ok := r.cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		cpu = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return cpu
}

// BenchmarkOverhead: what a token of one stream costs over a plain decode loop on the
// same session, by turns, round by round: through the engine alone, over HTTP with a
// client in another process that only reads, and with one that decodes JSON. Medians
// of the rounds' own ratios, as the machine's speed moves from round to round.
//
// It needs `make models` and prunes to 2:4 itself, by magnitude.
func BenchmarkOverhead(b *testing.B) {
	const tokens = 32
	dense := testenv.Model(b)
	pruned := filepath.Join(b.TempDir(), "pruned.safetensors")
	g, err := loader.Open(dense)
	require.NoError(b, err)
	_, err = prune.Apply(g, prune.Magnitude{}, prune.Pattern24)
	require.NoError(b, err)
	require.NoError(b, loader.Save(g, pruned, loader.SaveOptions{}))
	require.NoError(b, g.Close())
	for _, c := range []struct {
		name string
		spec registry.Spec
	}{
		{"int8", registry.Spec{Path: dense, Options: runtime.Options{DType: sparse.Int8, Context: 1024, Sparse: runtime.SparseOff}}},
		{"int8-nm24", registry.Spec{Path: pruned, Options: runtime.Options{DType: sparse.Int8, Context: 1024, Sparse: runtime.SparseForce, Layout: sparse.LayoutNM24}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			c.spec.Name = "m"
			c.spec.Engine.NoPrefixCache = true
			h := start(b, Options{}, c.spec)
			m, release, err := h.reg.Acquire("m")
			require.NoError(b, err)
			defer release()
			const text = "Once upon a time there was a"
			prompt := m.LM.Tokenizer().Encode(text, tokenizer.EncodeOptions{})
			body := fmt.Sprintf(`{"model":"m","prompt":%q,"max_tokens":%d,"stream":true,"ignore_eos":true,"temperature":0}`, text, tokens)
			ways := []string{"loop", "engine", "raw", "json"}
			remotes := map[string]*remote{}
			for _, kind := range ways[2:] {
				remotes[kind] = startRemote(b, kind, h.url+"/v1/completions")
			}
			run := func(way string) float64 { // ns per token
				switch way {
				case "loop":
					r, err := m.Session.GenerateTokens(context.Background(), prompt, runtime.GenerateOptions{MaxTokens: tokens, IgnoreEOS: true})
					require.NoError(b, err)
					return float64(r.DecodeTime) / (tokens - 1)
				case "engine":
					s, err := m.LM.Submit(context.Background(), engine.Request{Prompt: prompt, MaxTokens: tokens, IgnoreEOS: true})
					require.NoError(b, err)
					var first, last time.Time
					for {
						if _, err := s.Next(context.Background()); err != nil {
							require.ErrorIs(b, err, io.EOF)
							return float64(last.Sub(first)) / (tokens - 1)
						}
						if last = time.Now(); first.IsZero() {
							first = last
						}
					}
				}
				r := remotes[way]
				fmt.Fprintln(r.in, body)
				require.True(b, r.out.Scan(), "the client ended")
				var ns float64
				_, err := fmt.Sscan(r.out.Text(), &ns)
				require.NoError(b, err)
				return ns / (tokens - 1)
			}
			for _, way := range ways {
				run(way)
			}
			times, over := map[string][]float64{}, map[string][]float64{}
			rounds := 0
			for b.Loop() {
				for _, way := range ways {
					times[way] = append(times[way], run(way))
				}
				for _, way := range ways[1:] {
					over[way] = append(over[way], 100*(1-times["loop"][rounds]/times[way][rounds]))
				}
				rounds++
			}
			for _, way := range ways {
				b.ReportMetric(median(times[way])/1e3, way+"-us/token")
				if way != "loop" {
					b.ReportMetric(median(over[way]), way+"-%overhead")
				}
			}
			for kind, r := range remotes {
				b.ReportMetric(float64(r.close().Microseconds())/float64(tokens*(rounds+1)), kind+"-client-cpu-us/token")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}
