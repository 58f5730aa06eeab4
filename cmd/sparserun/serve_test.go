package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// server is `sparserun serve` as a process of its own.
type server struct {
	t   *testing.T
	cmd *exec.Cmd
	url string
	log *bytes.Buffer // complete after wait
}

func startServer(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{t: t, log: &bytes.Buffer{}}
	s.cmd = exec.Command(os.Args[0], append([]string{"serve", "story=" + stories(t), "--addr", "127.0.0.1:0", "--grpc-addr", "off", "--dtype", "int8", "--json"}, args...)...)
	s.cmd.Env = append(os.Environ(), "SPARSERUN_TEST_MAIN=1")
	s.cmd.Stderr = s.log
	out, err := s.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.cmd.Start())
	t.Cleanup(func() { s.cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err, "%s", lateLog{s})
	var ready readyJSON
	require.NoError(t, json.Unmarshal([]byte(line), &ready))
	require.Equal(t, s.cmd.Process.Pid, ready.PID)
	require.Equal(t, "story", ready.Models[0].Name)
	require.NotZero(t, ready.Models[0].WeightBytes)
	require.NotZero(t, ready.Models[0].DenseBytes)
	s.url = ready.URL
	return s
}

type lateLog struct{ s *server }

func (l lateLog) String() string {
	l.s.cmd.Process.Kill()
	l.s.cmd.Wait()
	return l.s.log.String()
}

func (s *server) signal(sig os.Signal) { require.NoError(s.t, s.cmd.Process.Signal(sig)) }

// wait is the exit code.
func (s *server) wait(within time.Duration) int {
	s.t.Helper()
	timer := time.AfterFunc(within, func() { s.cmd.Process.Kill() })
	err := s.cmd.Wait()
	require.True(s.t, timer.Stop(), "it did not stop within %v\n%s", within, s.log)
	if err != nil {
		var exit *exec.ExitError
		require.ErrorAs(s.t, err, &exit)
		return exit.ExitCode()
	}
	return 0
}

// outcome is what one streamed request came to.
type outcome struct {
	status       int // 0: no answer, the request was not accepted
	finish, done bool
	fault        string // an error event
	err          error
}

func (s *server) ask(c *http.Client, tokens int) (o outcome) {
	body := fmt.Sprintf(`{"model":"story","prompt":"Once upon a time","max_tokens":%d,"stream":true,"ignore_eos":true}`, tokens)
	resp, err := c.Post(s.url+"/v1/completions", "application/json", strings.NewReader(body))
	if err != nil {
		return outcome{err: err}
	}
	defer resp.Body.Close()
	o.status = resp.StatusCode
	sc := bufio.NewScanner(resp.Body)
	for sc.Scan() {
		line := sc.Text()
		o.done = o.done || line == "data: [DONE]"
		o.finish = o.finish || strings.Contains(line, `"finish_reason":"length"`)
		if strings.Contains(line, `"error":`) {
			o.fault = line
		}
	}
	o.err = sc.Err()
	return o
}

// busy waits until so many requests wait behind those at work.
func (s *server) busy(waiting int) {
	s.t.Helper()
	var last string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		resp, err := http.Get(s.url + "/api/stats")
		require.NoError(s.t, err)
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		require.NoError(s.t, err)
		var st struct {
			Models []struct{ Running, Waiting int }
		}
		require.NoError(s.t, json.Unmarshal(b, &st))
		if last = fmt.Sprint(st.Models); st.Models[0].Waiting >= waiting && st.Models[0].Running > 0 {
			return
		}
	}
	s.t.Fatalf("never %d waiting: %s", waiting, last)
}

// TestServeSIGTERM stops a server under load: what it accepted is answered in full, and
// it exits with 0.
func TestServeSIGTERM(t *testing.T) {
	s := startServer(t, "--grace", "500ms")
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	var good, refused atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for {
				o := s.ask(client, 150)
				if o.status == 0 {
					refused.Add(1)
					return
				}
				if o.status != http.StatusOK || !o.done || !o.finish || o.fault != "" || o.err != nil {
					t.Errorf("an accepted request was lost: %+v", o)
				}
				good.Add(1)
			}
		})
	}
	time.Sleep(400 * time.Millisecond)
	s.signal(syscall.SIGTERM)
	time.Sleep(100 * time.Millisecond)
	resp, err := client.Get(s.url + "/readyz") // still answered, and it says no
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	wg.Wait()
	require.Zero(t, s.wait(20*time.Second), "%s", s.log)
	require.EqualValues(t, 16, refused.Load(), "each client ends with a connection refused")
	// The server's own count: none was worked on that no client got.
	var logged int64
	for _, l := range strings.Split(s.log.String(), "\n") {
		if strings.Contains(l, `"path":"/v1/completions"`) {
			require.Contains(t, l, `"status":200`)
			logged++
		}
	}
	require.Equal(t, good.Load(), logged)
	t.Logf("%d requests, none lost", logged)
}

// TestServeDrainDeadline: what does not finish in time learns so, and the exit code is 0
// all the same.
func TestServeDrainDeadline(t *testing.T) {
	s := startServer(t, "--grace", "0s", "--drain", "100ms", "--max-running", "4", "--queue", "200")
	var wg sync.WaitGroup
	outcomes := make([]outcome, 100)
	for i := range outcomes {
		wg.Go(func() { outcomes[i] = s.ask(http.DefaultClient, 450) })
	}
	s.busy(20)
	s.signal(syscall.SIGTERM)
	wg.Wait()
	require.Zero(t, s.wait(20*time.Second), "%s", s.log)
	whole, told, broken := 0, 0, 0
	for _, o := range outcomes {
		switch {
		case o.status == 0: // its request was not read before the listener closed
		case o.err != nil:
			t.Errorf("an answer broke off: %+v", o)
		case o.status == http.StatusOK && o.finish && o.done && o.fault == "":
			whole++
		case o.status == http.StatusOK && o.fault != "" && o.done:
			broken++
		case o.status == http.StatusServiceUnavailable:
			told++
		default:
			t.Errorf("%+v", o)
		}
	}
	t.Logf("%d finished, %d were ended by an error event and [DONE], %d got a 503", whole, broken, told)
	require.NotZero(t, told)
	require.NotZero(t, broken)
	require.Contains(t, s.log.String(), "drain deadline passed")
}

// TestServeSecondSignal: the second SIGTERM does not wait.
func TestServeSecondSignal(t *testing.T) {
	s := startServer(t, "--grace", "1m")
	s.signal(syscall.SIGTERM)
	time.Sleep(2 * sameSignal)
	s.signal(syscall.SIGTERM)
	require.Equal(t, 1, s.wait(10*time.Second))
	require.Contains(t, s.log.String(), "stopping at once")
}

// TestServeSignalTwice: what timeout(1) does, which signals its child and then the whole
// group: two at one moment are one.
func TestServeSignalTwice(t *testing.T) {
	s := startServer(t, "--grace", "1s")
	s.signal(syscall.SIGTERM)
	time.Sleep(20 * time.Millisecond)
	s.signal(syscall.SIGTERM)
	require.Equal(t, 0, s.wait(20*time.Second))
	require.NotContains(t, s.log.String(), "stopping at once")
	require.Contains(t, s.log.String(), "drained")
}

// TestServeOTLPEndpoint: wrong usage, told in one line before anything is opened.
func TestServeOTLPEndpoint(t *testing.T) {
	for _, bad := range []string{"foo", "localhost:4318", "ftp://x", "http://", "http://h/?q=1"} {
		code, out, errs := do("serve", "nothing.onnx", "--otlp-endpoint", bad)
		require.Equal(t, exitUsage, code, "%s: %s", bad, errs)
		require.Empty(t, out)
		require.Equal(t, 1, strings.Count(errs, "\n"), errs)
		require.Contains(t, errs, "--otlp-endpoint: want http://HOST:PORT, got ")
		require.NotContains(t, errs, "out of range")
	}
}

func TestServeKeysReload(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "keys")
	require.NoError(t, os.WriteFile(keys, []byte("alice 0123456789abcdef"), 0o600))
	s := startServer(t, "--api-keys", keys)
	status := func(key string) int {
		req, err := http.NewRequest("GET", s.url+"/v1/models", nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+key)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp.StatusCode
	}
	require.Equal(t, 200, status("0123456789abcdef"))
	require.Equal(t, 401, status("fedcba9876543210"))
	require.NoError(t, os.WriteFile(keys, []byte("alice fedcba9876543210"), 0o600))
	s.signal(syscall.SIGHUP)
	require.Eventually(t, func() bool { return status("fedcba9876543210") == 200 }, 5*time.Second, 20*time.Millisecond)
	require.Equal(t, 401, status("0123456789abcdef"))
	s.signal(syscall.SIGTERM)
	require.Zero(t, s.wait(20*time.Second))
}

func TestServeConfig(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "serve.json")
	write := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	printed := func(args ...string) map[string]any {
		t.Helper()
		code, out, errs := do(append([]string{"serve", "--print-config"}, args...)...)
		require.Zero(t, code, errs)
		var m map[string]any
		require.NoError(t, json.Unmarshal([]byte(out), &m))
		return m
	}
	write(`{"addr":"127.0.0.1:1","timeout":"5s","max-body":"1MiB","shadow-dense":0.25,"lenient":true,"queue":7,"allow-origin":["https://a"],
	  "models":[{"name":"a","path":"x.gguf"},{"path":"dir/y.onnx","dtype":"f32","sparse":"nm24","shadow-dense":1,"context":99}]}`)
	t.Setenv("SPARSERUN_TIMEOUT", "6s")
	t.Setenv("SPARSERUN_QUEUE", "8")
	m := printed("--config", file, "--queue", "9")
	require.Equal(t, "127.0.0.1:1", m["addr"], "the file's")
	require.Equal(t, "6s", m["timeout"], "the environment's before the file's")
	require.EqualValues(t, 9, m["queue"], "the flag's before the environment's")
	require.Equal(t, "1048576", m["max-body"])
	require.Equal(t, true, m["lenient"])
	require.Equal(t, []any{"https://a"}, m["allow-origin"])
	require.Equal(t, "30s", m["drain"], "the default")
	require.EqualValues(t, 16, m["max-running"], "the default, not a sign for it")
	require.Equal(t, []any{
		map[string]any{"name": "a", "path": "x.gguf", "dtype": "f16", "shadow-dense": 0.25},
		map[string]any{"name": "y", "path": "dir/y.onnx", "dtype": "f32", "sparse": "nm24", "shadow-dense": 1.0, "context": 99.0},
	}, m["models"])
	// What is printed is a configuration: it says the same again.
	text, err := json.Marshal(m)
	require.NoError(t, err)
	write(string(text))
	os.Unsetenv("SPARSERUN_TIMEOUT")
	os.Unsetenv("SPARSERUN_QUEUE")
	t.Setenv("SPARSERUN_CONFIG", file)
	require.Equal(t, m, printed())
	// Models of the command line take the place of the file's.
	require.Equal(t, []any{map[string]any{"name": "b", "path": "z.gguf", "dtype": "f16", "shadow-dense": 0.25}}, printed("b=z.gguf")["models"])
	os.Unsetenv("SPARSERUN_CONFIG")

	for text, says := range map[string]string{
		`{"adr":"x"}`: "adr", `{"config":"x"}`: "config", `{"models":[{"nom":"x"}]}`: "nom", `{`: "EOF", `{"timeout":"long"}`: "timeout",
		`{"models":[{"name":"x"}]}`: "no path", `{"max-body":"x"}`: "max-body", `{"shadow-dense":2,"models":[{"path":"x"}]}`: "0 to 1",
		`{"queue":1}{}`: "one value", `{"models":[{"name":"a/../b","path":"x"}]}`: "between slashes",
	} {
		write(text)
		code, out, errs := do("serve", "--config", file)
		require.Equal(t, exitUsage, code, "%s: %s", text, errs)
		require.Empty(t, out)
		require.Contains(t, errs, says)
		require.Equal(t, 1, strings.Count(errs, "\n"), errs)
	}
	for _, args := range [][]string{{}, {"a=x", "a=y"}, {"x", "y", "--name", "n"}, {"x", "--config", filepath.Join(dir, "none")}, {"x", "--dtype", "f7"}, {"x", "--max-body", "-1"},
		{"x", "--max-running", "0"}, {"x", "--max-running", "257"}, {"x", "--queue=-1"}, {"x", "--step-tokens=-1"}, {"x", "--batch-size", "0"}, {"x", "--batch-delay", "2m"},
		{"x", "--max-conns", "0"}, {"x", "--timeout", "0s"}, {"x", "--write-timeout=-1s"}, {"x", "--grace=-1s"}, {"x", "--drain=-1s"}, {"x", "--max-body", "0"}, {"x", "--shadow-dense", "NaN"},
		{"x", "--tls-cert", "c"}, {"x", "--client-ca", "c"}, {"x", "--allow-origin", "app.example"}, {"x", "--allow-origin", "https://app.example/"}, {"x", "--threads=-1"},
		{"a\nb=x"}} {
		code, _, errs := do(append([]string{"serve"}, args...)...)
		require.Equal(t, exitUsage, code, "%v: %s", args, errs)
	}
	code, _, errs := do("serve", filepath.Join(dir, "none.gguf"), "--addr", "127.0.0.1:0", "--grpc-addr", "off")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "none.gguf")
}

// TestServeNoDrain: a drain of no time is none, not the default's half minute.
func TestServeNoDrain(t *testing.T) {
	s := startServer(t, "--grace", "0s", "--drain", "0s", "--max-running", "1", "--queue", "200")
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { s.ask(http.DefaultClient, 450) })
	}
	s.busy(20)
	s.signal(syscall.SIGTERM)
	require.Zero(t, s.wait(20*time.Second), "%s", s.log)
	wg.Wait()
	require.Contains(t, s.log.String(), "drain deadline passed")
}

func TestModelName(t *testing.T) {
	here, err := os.Getwd()
	require.NoError(t, err)
	for path, want := range map[string]string{".": filepath.Base(here), "a/b.gguf": "b", "a/b/": "b", "x.onnx": "x", "../c.safetensors": "c"} {
		require.Equal(t, want, modelName(path))
	}
}

// TestServeExample: the configuration of the systemd example is one.
func TestServeExample(t *testing.T) {
	code, out, errs := do("serve", "--config", "../../examples/serve/systemd/serve.json", "--print-config")
	require.Zero(t, code, errs)
	require.Contains(t, out, `"smollm2"`)
}

func TestByteSize(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "17": 17, "4GiB": 4 << 30, "1.5 MiB": 3 << 19, "2kB": 2000, "3MB": 3e6, "1GB": 1e9, "5B": 5} {
		var b byteSize
		require.NoError(t, b.UnmarshalText([]byte(text)), text)
		require.EqualValues(t, want, b, text)
	}
	for _, text := range []string{"", "x", "-1", "1TiB2", "1e30", "NaN", "1 2"} {
		var b byteSize
		require.Error(t, b.UnmarshalText([]byte(text)), text)
	}
}
