package prune

import (
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/sparserun/sparserun/sparse"
)

// A journal is a folder with one file per finished block. A run that finds its
// own journal takes finished blocks from it, lets the calibration windows run
// through them, and goes on from there: the result is the same bit for bit. A
// journal of another run (method, pattern, data, weights) is an error.

// ErrJournal wraps what is wrong with a journal.
var ErrJournal = errors.New("unusable journal")

// entry is a finished block.
type entry struct {
	Run     string // the run's fingerprint
	Reports []LayerReport
	Packed  []stored
}

// stored is a Matrix with its concrete type visible to gob.
type stored struct {
	Dense   *sparse.Dense
	NM24    *sparse.NM24
	Bitmask *sparse.Bitmask
	CSR     *sparse.CSR
}

func storedOf(m sparse.Matrix) (s stored, err error) {
	switch m := m.(type) {
	case *sparse.Dense:
		s.Dense = m
	case *sparse.NM24:
		s.NM24 = m
	case *sparse.Bitmask:
		s.Bitmask = m
	case *sparse.CSR:
		s.CSR = m
	default:
		err = fmt.Errorf("prune: journal: matrix of type %T: %w", m, ErrJournal)
	}
	return s, err
}

func (s stored) matrix() sparse.Matrix {
	switch {
	case s.Dense != nil:
		return s.Dense
	case s.NM24 != nil:
		return s.NM24
	case s.Bitmask != nil:
		return s.Bitmask
	case s.CSR != nil:
		return s.CSR
	}
	return nil
}

// fingerprint is a hash of what decides the result. Of the weights it takes the
// first row of every target: enough to tell models apart.
func (r *run) fingerprint(m Method) (string, error) {
	kv := map[string]string{"prune.options": fmt.Sprint(r.o.Store, r.o.KeepZeros, r.o.Permute)}
	m.recipe(kv)
	if r.o.Allocate != nil {
		r.o.Allocate.recipe(kv)
	}
	h := sha256.New()
	fmt.Fprintln(h, Version, m.Name(), r.p, r.o.SourceSHA256)
	if c, ok := m.(calibrated); ok && r.g.Config != nil {
		if d, err := c.calib().describe(r.g.Config.Vocab); err == nil {
			fmt.Fprintln(h, d.SHA256, d.Window)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(kv)) {
		fmt.Fprintln(h, k, kv[k])
	}
	for _, t := range r.targets {
		_, cols := t.Data.Dims()
		row := make([]float32, cols)
		if err := t.Data.ReadRows(row, 0); err != nil {
			return "", fmt.Errorf("prune: %q: %w", t.Name, err)
		}
		fmt.Fprintln(h, t.Name, t.Shape, row)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (r *run) blockFile(b int) string {
	return filepath.Join(r.o.Journal, fmt.Sprintf("block-%04d.prune", b))
}

// record writes a finished block, whole or not at all.
func (r *run) record(b int, groups []group) error {
	if r.o.Journal == "" {
		return nil
	}
	e := entry{Run: r.id}
	for _, i := range targetsOf(groups) {
		s, err := storedOf(r.targets[i].Data)
		if err != nil {
			return err
		}
		e.Reports = append(e.Reports, r.rep.Layers[i])
		e.Packed = append(e.Packed, s)
	}
	var buf bytes.Buffer
	buf.Write(make([]byte, sha256.Size))
	if err := gob.NewEncoder(&buf).Encode(e); err != nil {
		return fmt.Errorf("prune: journal: %v: %w", err, ErrJournal)
	}
	data := buf.Bytes()
	sum := sha256.Sum256(data[sha256.Size:])
	copy(data, sum[:])
	if err := writeBlock(r.blockFile(b), data); err != nil {
		return fmt.Errorf("prune: journal: writing %s: %w", r.blockFile(b), err)
	}
	return nil
}

// writeBlock makes a file appear whole or not at all: it is written beside, synced
// and renamed. Of the operating system's errors it gives the cause alone, as they
// name a file that is gone.
func writeBlock(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".block-*")
	if err == nil {
		if _, err = f.Write(data); err == nil {
			err = f.Sync()
		}
		if e := f.Close(); err == nil {
			err = e
		}
		if err == nil {
			err = os.Rename(f.Name(), path)
		}
		if err != nil {
			os.Remove(f.Name())
		}
	}
	if cause := errors.Unwrap(err); cause != nil { // of a PathError or a LinkError
		return cause
	}
	return err
}

// restore takes a block from the journal if it is there, and unpacks its weights
// into the executor.
func (r *run) restore(b int, groups []group, x *executor) (bool, error) {
	if r.o.Journal == "" || len(groups) == 0 {
		return false, nil
	}
	name := r.blockFile(b)
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("prune: journal: %w", err)
	}
	if len(data) < sha256.Size || sha256.Sum256(data[sha256.Size:]) != [sha256.Size]byte(data[:sha256.Size]) {
		return false, fmt.Errorf("prune: journal: %s: checksum: %w", name, ErrJournal)
	}
	var e entry
	if err := gob.NewDecoder(bytes.NewReader(data[sha256.Size:])).Decode(&e); err != nil {
		return false, fmt.Errorf("prune: journal: %s: %v: %w", name, err, ErrJournal)
	}
	targets := targetsOf(groups)
	if e.Run != r.id || len(e.Packed) != len(targets) || len(e.Reports) != len(targets) {
		return false, fmt.Errorf("prune: journal: %s belongs to another run (model, method, pattern, options or calibration differ): remove the folder: %w", name, ErrJournal)
	}
	for k, i := range targets {
		t, m := r.targets[i], e.Packed[k].matrix()
		rows, cols := t.Data.Dims()
		if m == nil || e.Reports[k].Name != t.Name {
			return false, fmt.Errorf("prune: journal: %s: want %q: %w", name, t.Name, ErrJournal)
		}
		if gr, gc := m.Dims(); gr != rows || gc != cols {
			return false, fmt.Errorf("prune: journal: %s: %q: want [%d %d], got [%d %d]: %w", name, t.Name, rows, cols, gr, gc, ErrJournal)
		}
		if err := m.ReadRows(x.weights[t], 0); err != nil {
			return false, fmt.Errorf("prune: journal: %s: %q: %w", name, t.Name, err)
		}
		_, sum, err := digest(m)
		if err != nil {
			return false, fmt.Errorf("prune: journal: %s: %q: %w", name, t.Name, err)
		}
		t.Data = m
		r.finished(i, e.Reports[k], sum)
	}
	return true, nil
}

// targetsOf lists the targets of groups in order.
func targetsOf(groups []group) (out []int) {
	for _, g := range groups {
		out = append(out, g.targets...)
	}
	return out
}

// ClearJournal removes the files of a journal, and its folder if nothing else is
// in it. Call it once the result has been saved.
func ClearJournal(dir string) error {
	for _, pattern := range []string{"block-*.prune", ".block-*"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := os.Remove(n); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		if left, _ := os.ReadDir(dir); len(left) == 0 {
			return err
		}
	}
	return nil
}
