package loader

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// fileSystem is what saving needs of a disk; tests put faults in its place.
type fileSystem interface {
	create(path string) (outFile, error) // fails where path exists
	rename(from, to string) error
	remove(path string) error
	mkdir(path string) error
	syncDir(path string) error
}

type outFile interface {
	io.WriteCloser
	Sync() error
}

type disk struct{}

func (disk) create(path string) (outFile, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	return f, nil
}
func (disk) rename(from, to string) error { return os.Rename(from, to) }
func (disk) remove(path string) error     { return os.Remove(path) }
func (disk) mkdir(path string) error      { return os.Mkdir(path, 0o755) }

func (disk) syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

const tempMark = ".sparserun-tmp-"

// tempName is a name beside path that says who writes it.
func tempName(path string) string {
	return filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s%s%d-%d", filepath.Base(path), tempMark, os.Getpid(), time.Now().UnixNano()))
}

// staleAfter is how long a temporary file of a process that is gone lies before
// the next save to the same place removes it.
const staleAfter = time.Hour

// removeStale clears what killed processes left beside path.
func removeStale(path string) {
	list, err := filepath.Glob(filepath.Join(escapeGlob(filepath.Dir(path)), "."+escapeGlob(filepath.Base(path))+tempMark+"*"))
	if err != nil {
		return
	}
	for _, p := range list {
		_, tail, _ := cutLast(p, tempMark)
		pid, err := strconv.Atoi(strings.SplitN(tail, "-", 2)[0])
		st, err2 := os.Lstat(p)
		if err != nil || err2 != nil || time.Since(st.ModTime()) < staleAfter || alive(pid) {
			continue
		}
		if st.IsDir() {
			for _, name := range []string{fileWeights, fileConfig, fileTokenizer, fileTokenizerConfig, fileTokenizerSpec, llama2cNames[0], llama2cNames[1]} {
				os.Remove(filepath.Join(p, name))
			}
		}
		os.Remove(p)
	}
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// writeFile writes a new file at path and syncs it; a failure leaves nothing.
func writeFile(fs fileSystem, path string, write func(io.Writer) error) (err error) {
	f, err := fs.create(path)
	if err != nil {
		return saveError(path, err)
	}
	defer func() {
		if err != nil {
			fs.remove(path)
		}
	}()
	if err := write(whole{f}); err != nil {
		f.Close()
		return saveError(path, err)
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return saveError(path, err)
	}
	return saveError(path, f.Close())
}

// whole takes a write that was cut short for a failure.
type whole struct{ w io.Writer }

func (w whole) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return n, err
}

// saveError makes one line of a failed write.
func saveError(path string, err error) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return fmt.Errorf("loader: writing %s: %w", shownName(path), bare(err))
}

// shownName is the file that a temporary name stands for.
func shownName(path string) string {
	dir, base := filepath.Split(path)
	if name, _, ok := strings.Cut(base, tempMark); ok {
		return dir + strings.TrimPrefix(name, ".")
	}
	if parent, _, ok := strings.Cut(filepath.Base(dir), tempMark); ok {
		return filepath.Join(filepath.Dir(filepath.Clean(dir)), strings.TrimPrefix(parent, "."), base)
	}
	return path
}

// bare strips the path that the operating system's errors carry: it is a
// temporary name that means nothing to the user.
func bare(err error) error {
	var pe *os.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		return pe.Err
	case errors.As(err, &le):
		return le.Err
	}
	return err
}

// atomically writes one file: whole, or not at all.
func atomically(fs fileSystem, path string, write func(io.Writer) error) error {
	removeStale(path)
	tmp := tempName(path)
	if err := writeFile(fs, tmp, write); err != nil {
		return err
	}
	if err := fs.rename(tmp, path); err != nil {
		fs.remove(tmp)
		return saveError(path, err)
	}
	return saveError(path, fs.syncDir(filepath.Dir(path)))
}

// A part is one file of a folder.
type part struct {
	name  string
	write func(io.Writer) error
}

// folderAtomically writes a folder. A new one appears by one rename; in one that
// exists the files are replaced one after the other, in the order given, when
// all of them are written.
func folderAtomically(fs fileSystem, path string, parts []part) (err error) {
	path = filepath.Clean(path)
	removeStale(path)
	_, statErr := os.Stat(path)
	isNew := errors.Is(statErr, os.ErrNotExist)
	if statErr != nil && !isNew {
		return saveError(path, statErr)
	}
	var temps []string
	dir := tempName(path)
	defer func() {
		if err == nil {
			return
		}
		for _, t := range temps {
			fs.remove(t)
		}
		if isNew {
			fs.remove(dir)
		}
	}()
	if isNew {
		if err := fs.mkdir(dir); err != nil {
			return saveError(path, err)
		}
	}
	for _, p := range parts {
		t := filepath.Join(dir, p.name)
		if !isNew {
			t = tempName(filepath.Join(path, p.name))
		}
		if err := writeFile(fs, t, p.write); err != nil {
			return err
		}
		temps = append(temps, t)
	}
	if isNew {
		if err := fs.syncDir(dir); err != nil {
			return saveError(path, err)
		}
		if err := fs.rename(dir, path); err != nil {
			return saveError(path, err)
		}
		temps = nil
		isNew = false // it is the result now, not ours to remove
		return saveError(path, fs.syncDir(filepath.Dir(path)))
	}
	for i, p := range parts {
		if err := fs.rename(temps[i], filepath.Join(path, p.name)); err != nil {
			return saveError(path, err)
		}
	}
	return saveError(path, fs.syncDir(path))
}
