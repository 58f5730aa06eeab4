package serve

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const secret, other = "0123456789abcdef-alice", "fedcba9876543210-bob"

func keyFile(t *testing.T, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "keys")
	require.NoError(t, os.WriteFile(p, []byte(text), 0o600))
	return p
}

func TestParseKeys(t *testing.T) {
	sum := sha256.Sum256([]byte(secret))
	hashed := "sha256:" + hex.EncodeToString(sum[:])
	for name, c := range map[string]struct {
		text, want string // whose secret is
		bad        bool
	}{
		"named":      {text: "# keys\nalice " + secret + " # hers\n\nbob " + other, want: "alice"},
		"no comment": {text: "alice " + secret + "#more"}, // it is part of the key
		"comment":    {text: "alice " + secret + " #hers", want: "alice"},
		"hashed":     {text: "ci " + hashed, want: "ci"},
		"nameless":   {text: secret, want: "key-" + hex.EncodeToString(sum[:4])},
		"not there":  {text: "bob " + other},
		"short":      {text: "alice 0123456789abcde", bad: true},
		"empty":      {text: "# none\n", bad: true},
		"three":      {text: "alice " + secret + " x", bad: true},
		"same name":  {text: "a " + secret + "\na " + other, bad: true},
		"bad hash":   {text: "a sha256:00", bad: true},
		"not hex":    {text: "a sha256:" + string(make([]byte, 64)), bad: true},
		"long lines": {text: "a " + string(make([]byte, 1<<17)), bad: true},
	} {
		k, err := LoadKeys(keyFile(t, c.text))
		if c.bad {
			require.Error(t, err, name)
			continue
		}
		require.NoError(t, err, name)
		who, ok := k.Name(secret)
		require.Equal(t, c.want, who, name)
		require.Equal(t, c.want != "", ok, name)
		_, ok = k.Name("")
		require.False(t, ok, name)
	}
}

func FuzzKeys(f *testing.F) {
	f.Add([]byte("alice " + secret + "\n# c\nb sha256:00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if list, err := parseKeys(text); err == nil && len(list) == 0 {
			t.Fatal("no keys and no error")
		}
	})
}

func TestKeys(t *testing.T) {
	path := keyFile(t, "alice "+secret)
	keys, err := LoadKeys(path)
	require.NoError(t, err)
	h := start(t, Options{Keys: keys, AdminAddr: "127.0.0.1:0"}, story(t))
	for _, p := range []string{"/", "/healthz", "/livez", "/readyz", "/version", "/v2/health/live", "/v2/health/ready"} {
		status, body, _ := h.get(p)
		require.Equal(t, http.StatusOK, status, "%s: %s", p, body)
	}
	for _, p := range []string{"/v1/models", "/metrics", "/api/stats", "/v2", "/v2/models/story"} {
		status, body, head := h.get(p)
		require.Equal(t, http.StatusUnauthorized, status, p)
		require.Equal(t, "Bearer", head.Get("WWW-Authenticate"))
		require.Contains(t, body, "API key", p)
		status, _, _ = h.get(p, "Authorization", "Bearer "+other)
		require.Equal(t, http.StatusUnauthorized, status, p)
		status, body, _ = h.get(p, "Authorization", "bearer "+secret)
		require.Equal(t, http.StatusOK, status, "%s: %s", p, body)
	}
	status, body, _ := h.get("/v1/models")
	require.Equal(t, http.StatusUnauthorized, status)
	require.JSONEq(t, `{"error":{"message":"missing or unknown API key","type":"authentication_error","param":null,"code":"401"}}`, body)

	// The file changes: the old key goes, the new one comes; a broken file changes nothing.
	require.NoError(t, os.WriteFile(path, []byte("bob "+other), 0o600))
	require.Eventually(t, func() bool {
		status, _, _ := h.get("/v1/models", "Authorization", "Bearer "+other)
		return status == http.StatusOK
	}, 10*time.Second, 50*time.Millisecond)
	status, _, _ = h.get("/v1/models", "Authorization", "Bearer "+secret)
	require.Equal(t, http.StatusUnauthorized, status)
	require.NoError(t, os.WriteFile(path, []byte("# nothing"), 0o600))
	require.Error(t, keys.Reload())
	status, _, _ = h.get("/v1/models", "Authorization", "Bearer "+other)
	require.Equal(t, http.StatusOK, status)
}

func TestForeignPages(t *testing.T) {
	h := start(t, Options{AllowOrigins: []string{"https://chat.example"}, AllowHosts: []string{"models.example"}}, story(t))
	_, port, err := net.SplitHostPort(h.Addr())
	require.NoError(t, err)
	for _, c := range []struct {
		header []string
		want   int
	}{
		{nil, 200},
		{[]string{"Host", "localhost:" + port}, 200},
		{[]string{"Host", "models.example"}, 200},
		{[]string{"Host", "rebound.example:" + port}, 403},
		{[]string{"Origin", "https://evil.example"}, 403},
		{[]string{"Origin", "null"}, 403},
		{[]string{"Origin", "http://127.0.0.1:" + port}, 200}, // our own page
		{[]string{"Origin", "https://chat.example"}, 200},
	} {
		status, body, head := h.get("/v1/models", c.header...)
		require.Equal(t, c.want, status, "%v: %s", c.header, body)
		if c.header != nil && c.header[1] == "https://chat.example" {
			require.Equal(t, c.header[1], head.Get("Access-Control-Allow-Origin"))
		} else {
			require.Empty(t, head.Get("Access-Control-Allow-Origin"))
		}
	}
	status, _, head := h.do("OPTIONS", "/v1/chat/completions", "", "Origin", "https://chat.example", "Access-Control-Request-Method", "POST")
	require.Equal(t, http.StatusNoContent, status)
	require.Contains(t, head.Get("Access-Control-Allow-Headers"), "Authorization")
	require.Contains(t, head.Get("Access-Control-Allow-Headers"), "X-Api-Key")
	const asked = "content-type,x-api-key,x-stainless-os" // of OpenAI's client in a browser
	_, _, head = h.do("OPTIONS", "/v1/chat/completions", "", "Origin", "https://chat.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", asked)
	require.Equal(t, asked, head.Get("Access-Control-Allow-Headers"))
}

func TestAdminListener(t *testing.T) {
	_, err := New(nil, Options{Addr: "127.0.0.1:0", AdminAddr: "0.0.0.0:0"})
	require.ErrorIs(t, err, ErrOption)
	require.ErrorContains(t, err, "without API keys")
	h := start(t, Options{AdminAddr: "127.0.0.1:0"}, story(t))
	h.url = "http://" + h.AdminAddr()
	for path, want := range map[string]string{"/debug/pprof/": "goroutine", "/debug/pprof/goroutine?debug=1": "goroutine profile", "/metrics": "sparserun_", "/api/stats": `"models"`} {
		status, body, _ := h.get(path)
		require.Equal(t, 200, status, path)
		require.Contains(t, body, want, path)
	}
	status, _, _ := h.get("/debug/pprof/", "Host", "rebound.example")
	require.Equal(t, http.StatusForbidden, status)
	for _, c := range []struct {
		path, body string
		want       int
		says       string
	}{
		{"/admin/unload", `{"name":"nobody"}`, 404, "no such model"},
		{"/admin/load", `{"name":"nobody"}`, 404, "no such model"},
		{"/admin/load", `{"nom":"x"}`, 400, "unknown field"},
		{"/admin/load", `{"path":"x"}`, 400, "want a model's name"},
		{"/admin/load", `{"name":"a","path":"/nowhere"}`, 400, "nowhere"},
		{"/admin/load", `{"name":"a","path":"x","dtype":"f7"}`, 400, "f7"},
		{"/admin/load", `{"name":"a","path":"x","shadow_dense":2}`, 400, "shadow_dense"},
		{"/admin/load", `{"name":"a","path":"x","context":-1}`, 400, "context"},
		{"/admin/load", `{"name":"story","dtype":"f32"}`, 400, "path"}, // would be loaded as it was
		{"/admin/unload", `{"name":"a"}`, 404, "no such model"},        // the loads above left nothing
		{"/admin/load", `{"name":"a/ready","path":"` + story(t).Path + `"}`, 400, "after a name"},
		{"/admin/load", `{"name":"a\u0000b","path":"` + story(t).Path + `"}`, 400, "control characters"},
		{"/admin/load", `{"name":"../a","path":"` + story(t).Path + `"}`, 400, ".. between"},
		{"/admin/load", `{"name":"` + strings.Repeat("n", 201) + `","path":"x"}`, 400, "200 bytes"},
		{"/admin/load", `{"name":"a"} {}`, 400, "one object"},
		{"/admin/unload", `{"nom":"story"}`, 400, "unknown field"},
		{"/admin/keys/reload", ``, 404, "no keys"},
		{"/admin/load", `{"name":"second","path":"` + story(t).Path + `","dtype":"f32","sparse":"off"}`, 200, "second"},
		{"/admin/unload", `{"name":"second"}`, 200, "second"},
		{"/admin/unload", `{"name":"second"}`, 409, "not loaded"},
		{"/admin/load", `{"name":"second"}`, 200, "second"}, // as it was
	} {
		status, body, _ := h.do("POST", c.path, c.body)
		require.Equal(t, c.want, status, "%s %s: %s", c.path, c.body, body)
		require.Contains(t, body, c.says)
	}
	m, release, err := h.reg.Acquire("second")
	require.NoError(t, err)
	defer release()
	require.Equal(t, "f32", m.Spec.DType.String())

	// Zeros are said, not left out.
	shadow := func(of string) (float64, int) {
		status, body, _ := h.do("POST", "/admin/load", `{"name":"third","path":"`+story(t).Path+`"`+of+`}`)
		require.Equal(t, 200, status, body)
		m, release, err := h.reg.Acquire("third")
		require.NoError(t, err)
		defer release()
		return m.Spec.Shadow, m.Spec.Context
	}
	share, context := shadow(`,"shadow_dense":0.5,"context":64`)
	require.Equal(t, 0.5, share)
	require.Equal(t, 64, context)
	share, context = shadow(`,"dtype":"f32"`)
	require.Equal(t, 0.5, share, "stays")
	require.Equal(t, 64, context)
	share, context = shadow(`,"shadow_dense":0,"context":0`)
	require.Zero(t, share)
	require.Zero(t, context)
}

// TestMethods: a path that is there for another method says so, on both listeners.
func TestMethods(t *testing.T) {
	h := start(t, Options{AdminAddr: "127.0.0.1:0"}, story(t))
	for _, c := range []struct{ addr, method, path, allow string }{
		{h.Addr(), "POST", "/", "GET"}, {h.Addr(), "POST", "/api/stats", "GET"}, {h.Addr(), "DELETE", "/metrics", "GET"}, {h.Addr(), "PUT", "/readyz", "GET"},
		{h.Addr(), "POST", "/version", "GET"}, {h.Addr(), "POST", "/openapi.json", "GET"},
		{h.AdminAddr(), "GET", "/admin/load", "POST"}, {h.AdminAddr(), "GET", "/admin/unload", "POST"}, {h.AdminAddr(), "PUT", "/admin/keys/reload", "POST"},
	} {
		h.url = "http://" + c.addr
		status, body, head := h.do(c.method, c.path, "")
		require.Equal(t, http.StatusMethodNotAllowed, status, "%s %s: %s", c.method, c.path, body)
		require.Equal(t, c.allow, head.Get("Allow"))
		require.JSONEq(t, `{"error":"want `+c.allow+`, got `+c.method+`"}`, body)
	}
	status, _, _ := h.do("HEAD", "/metrics", "")
	require.Equal(t, http.StatusOK, status)
	status, _, _ = h.do("GET", "/admin", "")
	require.Equal(t, http.StatusNotFound, status)
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{TLSCert: "x"}, {ClientCA: "x"}, {MaxBody: -1}, {MaxConns: -1}, {MaxHeader: 1}, {Drain: -1}, {BodyMemory: 1}} {
		_, err := New(nil, o)
		require.ErrorIs(t, err, ErrOption, "%+v", o)
	}
	_, err := New(nil, Options{TLSCert: "/nowhere", TLSKey: "/nowhere"})
	require.ErrorIs(t, err, os.ErrNotExist)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, err = New(nil, Options{Addr: l.Addr().String()})
	require.ErrorContains(t, err, "in use")
}

// pair writes a certificate signed by parent (itself, if nil) and its key.
func pair(t *testing.T, name string, parent *tls.Certificate) (cert, key string, c *tls.Certificate) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: parent == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	signer, signerKey := tmpl, any(k)
	if parent != nil {
		signer, signerKey = parent.Leaf, parent.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, signer, &k.PublicKey, signerKey)
	require.NoError(t, err)
	kd, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kd}), 0o600))
	loaded, err := tls.LoadX509KeyPair(cert, key)
	require.NoError(t, err)
	return cert, key, &loaded
}

func TestTLS(t *testing.T) {
	ca, _, caPair := pair(t, "ca", nil)
	cert, key, _ := pair(t, "server-1", caPair)
	_, _, mine := pair(t, "client", caPair)
	h := start(t, Options{TLSCert: cert, TLSKey: key, ClientCA: ca}, story(t))
	h.url = "https://" + h.Addr()
	pool := x509.NewCertPool()
	pool.AddCert(caPair.Leaf)
	client := func(with ...tls.Certificate) *http.Client {
		return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: with}, ForceAttemptHTTP2: true, DisableKeepAlives: true}}
	}
	_, err := client().Get(h.url + "/healthz")
	require.Error(t, err, "a client without a certificate")
	c := client(*mine)
	resp, err := c.Get(h.url + "/healthz")
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, "HTTP/2.0", resp.Proto)
	require.Equal(t, "server-1", resp.TLS.PeerCertificates[0].Subject.CommonName)
	h.client = c
	r := h.stream(t.Context(), 8, nil)
	require.NoError(t, r.err)
	require.True(t, r.done)

	// The certificate is renewed in place.
	cert2, key2, _ := pair(t, "server-2", caPair)
	for from, to := range map[string]string{key2: key, cert2: cert} {
		b, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(to, b, 0o600))
	}
	later := time.Now().Add(time.Minute)
	require.NoError(t, os.Chtimes(cert, later, later))
	require.Eventually(t, func() bool {
		resp, err := c.Get(h.url + "/healthz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.TLS.PeerCertificates[0].Subject.CommonName == "server-2"
	}, 10*time.Second, 100*time.Millisecond)
}
