package serve

import (
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"strings"
)

// trace is where a request stands in a trace: W3C Trace Context, version 00 (a higher
// version is read as far as 00 goes, as the recommendation wants).
type trace struct {
	id     string // 32 hex digits
	parent string // the caller's span, "" where the trace begins here
	span   string // ours
	flags  string
}

// startTrace continues the trace of a traceparent header, or begins one, of which
// record says whether its spans are kept.
func startTrace(header string, record bool) trace {
	t := trace{span: randomHex(8), flags: "00"}
	f := strings.Split(strings.TrimSpace(header), "-")
	if len(f) >= 4 && isHex(f[0], 2) && f[0] != "ff" && (len(f) == 4 || f[0] != "00") &&
		isHex(f[1], 32) && strings.Trim(f[1], "0") != "" && isHex(f[2], 16) && strings.Trim(f[2], "0") != "" && isHex(f[3], 2) {
		t.id, t.parent, t.flags = f[1], f[2], f[3]
		return t
	}
	if t.id = randomHex(16); record {
		t.flags = "01"
	}
	return t
}

// header is the traceparent that names our span.
func (t trace) header() string { return "00-" + t.id + "-" + t.span + "-" + t.flags }

// sampled reports whether the one who began the trace wants its spans kept.
func (t trace) sampled() bool {
	n, err := strconv.ParseUint(t.flags, 16, 8)
	return err == nil && n&1 == 1
}

// isHex reports whether s is n lower-case hex digits.
func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b) // never fails: crypto/rand's promise
	return hex.EncodeToString(b)
}

// requestID is the caller's id where it is one that can stand in a log line, else a new one.
func requestID(header string) string {
	if len(header) == 0 || len(header) > 128 {
		return "req-" + randomHex(12)
	}
	for _, c := range []byte(header) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' && c != '.' {
			return "req-" + randomHex(12)
		}
	}
	return header
}
