package serve

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"
)

// tlsConfig is nil without a certificate.
func tlsConfig(o *Options) (*tls.Config, error) {
	if o.TLSCert == "" {
		return nil, nil
	}
	c := &certificate{cert: o.TLSCert, key: o.TLSKey}
	if _, err := c.get(nil); err != nil {
		return nil, err
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get, NextProtos: []string{"h2", "http/1.1"}}
	if o.ClientCA != "" {
		pem, err := os.ReadFile(o.ClientCA)
		if err != nil {
			return nil, fmt.Errorf("serve: TLS: %w", err)
		}
		t.ClientCAs = x509.NewCertPool()
		if !t.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("serve: TLS: %s: want PEM certificates, got none: %w", o.ClientCA, ErrOption)
		}
		t.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return t, nil
}

// certificate is a pair of files that is read again when the certificate's changes, as
// tools that renew certificates expect. A pair that does not load leaves the old in use.
type certificate struct {
	cert, key string
	mu        sync.Mutex
	last      *tls.Certificate
	seen      time.Time // of the file
	looked    time.Time
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil && time.Since(c.looked) < time.Second {
		return c.last, nil
	}
	c.looked = time.Now()
	st, err := os.Stat(c.cert)
	if err == nil && c.last != nil && st.ModTime().Equal(c.seen) {
		return c.last, nil
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.LoadX509KeyPair(c.cert, c.key)
	}
	if err != nil {
		if c.last != nil {
			return c.last, nil
		}
		return nil, fmt.Errorf("serve: TLS: %w", err)
	}
	c.last, c.seen = &pair, st.ModTime()
	return c.last, nil
}
