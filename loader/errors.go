package loader

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/sparserun/sparserun/model"
)

// Errors of this package; every error wraps one of them, or an error of the
// operating system.
var (
	// ErrFormat: the bytes break the rules of their format.
	ErrFormat = errors.New("malformed file")
	// ErrTruncated: the file ends, or ended meanwhile, before what it promises.
	ErrTruncated = errors.New("file too short")
	// ErrUnsupported: well-formed, but nothing this program runs.
	ErrUnsupported = errors.New("unsupported")
	// ErrLimit: more than this program takes from a file, or than the caller allows.
	ErrLimit = errors.New("limit exceeded")
	// ErrShape: a tensor's shape, offsets or size disagree.
	ErrShape = errors.New("shape mismatch")
	// ErrNonFinite: a weight or scale is NaN or infinite.
	ErrNonFinite = errors.New("not a finite number")
	// ErrChanged: the file was changed after it was opened.
	ErrChanged = errors.New("file changed while open")
	// ErrSparse: sparse metadata contradicts itself or its values.
	ErrSparse = errors.New("inconsistent sparse metadata")
	// ErrConfig: the geometry makes no model. It is model.ErrConfig.
	ErrConfig = model.ErrConfig
	// ErrWeight: a weight is missing, extra or of a wrong shape. It is model.ErrWeight.
	ErrWeight = model.ErrWeight
	// ErrGraph: a cycle, a value that nothing writes or that two write. It is model.ErrGraph.
	ErrGraph = model.ErrGraph
)

// Error says where in which file something is wrong. Its text is one line:
// loader: model.safetensors: "fc1.weight": offset 8: shape: want [300 784], got [784 300]: shape mismatch
type Error struct {
	File   string // base name, or the path the caller gave
	Tensor string // or metadata key; may be empty
	Offset int64  // in the file; -1: unknown
	What   string // empty: Err says it all
	Want   string // may be empty
	Got    string
	Err    error // one of the sentinels above, or the operating system's
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("loader: ")
	if e.File != "" {
		b.WriteString(inLine(e.File) + ": ")
	}
	if e.Tensor != "" {
		fmt.Fprintf(&b, "%.120q: ", e.Tensor)
	}
	if e.Offset >= 0 {
		fmt.Fprintf(&b, "offset %d: ", e.Offset)
	}
	if e.What == "" {
		fmt.Fprintf(&b, "%v", e.Err)
		return b.String()
	}
	b.WriteString(e.What)
	if e.Want != "" {
		fmt.Fprintf(&b, ": want %s", e.Want)
	}
	if e.Got != "" {
		if e.Want != "" {
			b.WriteString(", got ")
		} else {
			b.WriteString(": got ")
		}
		b.WriteString(e.Got)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	return b.String()
}

// inLine is a file's name, quoted where it would not stay in its line: an index names
// its shards as it likes.
func inLine(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// Unwrap gives the sentinel to errors.Is.
func (e *Error) Unwrap() error { return e.Err }

// fault builds an Error; want and got may be anything printable, nil for none.
func fault(sentinel error, tensor string, off int64, what string, want, got any) *Error {
	e := &Error{Tensor: tensor, Offset: off, What: what, Err: sentinel}
	if want != nil {
		e.Want = clip(want)
	}
	if got != nil {
		e.Got = clip(got)
	}
	return e
}

// clip keeps a hostile value from flooding the line.
func clip(v any) string {
	if s, ok := v.(string); ok {
		v = fmt.Sprintf("%.80q", s)
	}
	s := fmt.Sprint(v)
	if len(s) > 120 {
		s = s[:120] + "..."
	}
	return s
}

// inFile adds the file's name to an error that has none yet.
func inFile(err error, file string) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		if e.File == "" {
			e.File = file
		}
		return err
	}
	return &Error{File: file, Offset: -1, Err: err}
}
