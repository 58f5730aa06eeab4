package loader

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"
	"runtime/debug"
	"sync"
	"time"
)

// source is an open regular file that is read at offsets, by pread or, if asked
// for, through a map. It is safe for concurrent use.
type source struct {
	f     *os.File
	name  string // for errors
	base  string // the file's own name
	size  int64
	mtime time.Time
	data  []byte // the map; nil: pread
}

// openFile opens path read-only; only regular files are taken. O_NONBLOCK keeps
// a FIFO from blocking the open.
func openFile(path string) (*source, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, osError(path, err)
	}
	return newSource(f, filepath.Base(path), filepath.Base(path))
}

// openIn opens a file of a folder and refuses to leave the folder.
func openIn(root *os.Root, name string) (*source, error) {
	shown := inFolder(root, name)
	f, err := root.OpenFile(name, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, osError(shown, err)
	}
	return newSource(f, shown, name)
}

// inFolder is how errors name a file of a folder.
func inFolder(root *os.Root, name string) string {
	return filepath.Join(filepath.Base(root.Name()), name)
}

func newSource(f *os.File, name, base string) (*source, error) {
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, osError(name, err)
	}
	if !st.Mode().IsRegular() {
		f.Close()
		return nil, inFile(fault(ErrUnsupported, "", -1, "kind of file", "a regular file", st.Mode().Type()), name)
	}
	return &source{f: f, name: name, base: base, size: st.Size(), mtime: st.ModTime()}, nil
}

// osError makes one line of an operating system's error.
func osError(name string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return &Error{File: name, Offset: -1, Err: err}
}

// Close releases the map and the file.
func (s *source) Close() error {
	var err error
	if s.data != nil {
		err = unmap(s.data)
		s.data = nil
	}
	return errors.Join(err, s.f.Close())
}

// mmap maps the whole file.
func (s *source) mmap() error {
	if s.size == 0 {
		return nil
	}
	b, err := mapFile(s.f, s.size)
	if err != nil {
		return osError(s.name, err)
	}
	s.data = b
	return nil
}

// unchanged fails where the file is no longer the one that was opened.
func (s *source) unchanged() error {
	st, err := s.f.Stat()
	if err != nil {
		return osError(s.name, err)
	}
	if st.Size() < s.size {
		return inFile(fault(ErrTruncated, "", -1, "file size since it was opened", s.size, st.Size()), s.name)
	}
	if st.Size() != s.size || !st.ModTime().Equal(s.mtime) {
		return inFile(fault(ErrChanged, "", -1, "size and time", fmt.Sprint(s.size, " ", s.mtime.UTC().Format(time.RFC3339Nano)),
			fmt.Sprint(st.Size(), " ", st.ModTime().UTC().Format(time.RFC3339Nano))), s.name)
	}
	return nil
}

// readAt fills b from offset off.
func (s *source) readAt(b []byte, off int64) error {
	if off < 0 || off > s.size || int64(len(b)) > s.size-off {
		return inFile(fault(ErrTruncated, "", off, "read", fmt.Sprint(len(b), " bytes"), fmt.Sprint(max(0, s.size-off))), s.name)
	}
	n, err := s.f.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF || err == nil {
		return inFile(fault(ErrTruncated, "", off, "read", fmt.Sprint(len(b), " bytes"), n), s.name)
	}
	return osError(s.name, err)
}

// all reads a file of at most limit bytes.
func (s *source) all(limit int64) ([]byte, error) {
	if s.size > limit {
		return nil, inFile(fault(ErrLimit, "", -1, "file size", fmt.Sprint("at most ", limit), s.size), s.name)
	}
	b := make([]byte, s.size)
	return b, s.readAt(b, 0)
}

const chunk = 256 << 10 // bytes read at a time

var buffers = sync.Pool{New: func() any { b := make([]byte, chunk); return &b }}

// borrow returns a buffer of n bytes and the function that gives it back.
func borrow(n int) ([]byte, func()) {
	if n > chunk {
		return make([]byte, n), func() {}
	}
	p := buffers.Get().(*[]byte)
	return (*p)[:n], func() { buffers.Put(p) }
}

// view calls f with the n bytes at off; they are valid only inside the call. A
// fault of the map (the file was cut) becomes an error.
func (s *source) view(off int64, n int, f func([]byte) error) (err error) {
	if s.data == nil {
		b, done := borrow(n)
		defer done()
		if err := s.unchanged(); err != nil {
			return err
		}
		if err := s.readAt(b, off); err != nil {
			return err
		}
		return f(b)
	}
	if off < 0 || off > s.size || int64(n) > s.size-off {
		return inFile(fault(ErrTruncated, "", off, "read", fmt.Sprint(n, " bytes"), fmt.Sprint(max(0, s.size-off))), s.name)
	}
	if err := s.unchanged(); err != nil {
		return err
	}
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if r := recover(); r != nil {
			re, ok := r.(goruntime.Error)
			if _, addr := r.(interface{ Addr() uintptr }); !ok || !addr {
				panic(r) // not the map: a bug of ours must stay visible
			}
			err = inFile(fault(ErrTruncated, "", off, "reading the mapped file", nil, re.Error()), s.name)
		}
	}()
	return f(s.data[off : off+int64(n)])
}
