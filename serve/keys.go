package serve

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Keys are API keys and whose they are, from a file: one key a line,
//
//	alice 6f1ed002ab5595859014ebf0951522d9
//	ci    sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
//	# a comment; a line with one word is a key whose name is made from its hash
//
// The file is read anew when it changes (by its time and size), on SIGHUP, and when the admin
// listener is asked to. A file that cannot be read leaves the old keys in force.
type Keys struct {
	path string
	mu   sync.RWMutex
	list []apiKey
	seen os.FileInfo
}

type apiKey struct {
	name string
	sum  [sha256.Size]byte
}

// Limits of a key file: what is shorter can be guessed, what is larger is no key file.
const (
	minKey     = 16
	maxKeyFile = 1 << 20
)

// LoadKeys reads a key file. An unreadable or empty one is an error.
func LoadKeys(path string) (*Keys, error) {
	k := &Keys{path: path}
	return k, k.Reload()
}

// Reload reads the file again.
func (k *Keys) Reload() error {
	st, err := os.Stat(k.path)
	if err != nil {
		return fmt.Errorf("serve: keys: %w", err)
	}
	if st.Size() > maxKeyFile {
		return fmt.Errorf("serve: keys: %s: want at most %d bytes, got %d: %w", k.path, maxKeyFile, st.Size(), ErrOption)
	}
	text, err := os.ReadFile(k.path)
	if err != nil {
		return fmt.Errorf("serve: keys: %w", err)
	}
	list, err := parseKeys(text)
	if err != nil {
		return fmt.Errorf("serve: keys: %s: %w", k.path, err)
	}
	k.mu.Lock()
	k.list, k.seen = list, st
	k.mu.Unlock()
	return nil
}

func parseKeys(text []byte) ([]apiKey, error) {
	var list []apiKey
	names := map[string]bool{}
	sc := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; sc.Scan(); n++ {
		f := strings.Fields(sc.Text())
		if i := slices.IndexFunc(f, func(word string) bool { return word[0] == '#' }); i >= 0 {
			f = f[:i] // a comment begins with a word: a # may stand in a key
		}
		if len(f) == 0 {
			continue
		}
		secret := f[len(f)-1]
		var k apiKey
		if h, ok := strings.CutPrefix(secret, "sha256:"); ok {
			b, err := hex.DecodeString(h)
			if err != nil || len(b) != sha256.Size {
				return nil, fmt.Errorf("line %d: want sha256: and 64 hex digits: %w", n, ErrOption)
			}
			copy(k.sum[:], b)
		} else if len(secret) < minKey {
			return nil, fmt.Errorf("line %d: want a key of at least %d characters, got %d: %w", n, minKey, len(secret), ErrOption)
		} else {
			k.sum = sha256.Sum256([]byte(secret))
		}
		switch len(f) {
		case 1:
			k.name = "key-" + hex.EncodeToString(k.sum[:4])
		case 2:
			k.name = f[0]
		default:
			return nil, fmt.Errorf("line %d: want NAME KEY, got %d words: %w", n, len(f), ErrOption)
		}
		if names[k.name] {
			return nil, fmt.Errorf("line %d: a second key named %q: %w", n, k.name, ErrOption)
		}
		names[k.name] = true
		list = append(list, k)
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no key in it: %w", ErrOption)
	}
	return list, nil
}

// Name is whose key a token is. It takes the same time for every token: hashes are
// compared, all of them, in constant time.
func (k *Keys) Name(token string) (name string, ok bool) {
	sum := sha256.Sum256([]byte(token))
	k.mu.RLock()
	defer k.mu.RUnlock()
	for i := range k.list {
		if subtle.ConstantTimeCompare(sum[:], k.list[i].sum[:]) == 1 {
			name, ok = k.list[i].name, true
		}
	}
	return name, ok
}

// Len is the number of keys.
func (k *Keys) Len() int {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return len(k.list)
}

// watch reloads the file when its time or size changes.
func (k *Keys) watch(ctx context.Context, every time.Duration, log *slog.Logger) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		st, err := os.Stat(k.path)
		if err != nil {
			continue // an editor replaces files by rename: it will be there again
		}
		k.mu.RLock()
		same := k.seen != nil && st.ModTime().Equal(k.seen.ModTime()) && st.Size() == k.seen.Size()
		k.mu.RUnlock()
		if same {
			continue
		}
		if err := k.Reload(); err != nil {
			log.Error("API keys stay as they were", "error", err)
			k.mu.Lock()
			k.seen = st // say it once
			k.mu.Unlock()
			continue
		}
		log.Info("API keys reloaded", "keys", k.Len())
	}
}

// bearer is the token of a request: Authorization: Bearer TOKEN, or the header that
// Azure's and some Triton clients send.
func bearer(h http.Header) string {
	if t, ok := cutFold(h.Get("Authorization"), "Bearer "); ok {
		return strings.TrimSpace(t)
	}
	return h.Get("X-Api-Key")
}

func cutFold(s, prefix string) (string, bool) {
	if len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix) {
		return s[len(prefix):], true
	}
	return "", false
}
