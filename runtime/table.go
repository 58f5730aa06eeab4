package runtime

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Table holds measured kernel times of one machine. A time is measured when it is
// first asked for and kept in the user's cache folder, so that planning is
// instant from then on.
type Table struct {
	t    Timer
	path string // "": memory only

	mu    sync.Mutex
	ns    map[string]int64
	dirty bool
}

type tableFile struct {
	Machine string           `json:"machine"`
	NS      map[string]int64 `json:"ns"`
}

// OpenTable reads the cached times of t's machine; a missing, foreign or broken
// file is an empty table. Dir "" is the user's cache folder; "off" keeps the
// table in memory.
func OpenTable(t Timer, dir string) *Table {
	tb := &Table{t: t, ns: map[string]int64{}}
	if dir == "off" {
		return tb
	}
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return tb
		}
		dir = filepath.Join(base, "sparserun")
	}
	h := sha256.Sum256([]byte(t.Machine()))
	tb.path = filepath.Join(dir, "kernels-"+hex.EncodeToString(h[:8])+".json")
	b, err := os.ReadFile(tb.path)
	if err != nil || len(b) > 1<<24 {
		return tb
	}
	var f tableFile
	if json.Unmarshal(b, &f) == nil && f.Machine == t.Machine() && f.NS != nil {
		tb.ns = f.NS
	}
	return tb
}

// densityStep rounds densities so that layers of one pruning share measurements.
const densityStep = 0.025

// Time is the time of one Linear; see Timer.Time.
func (tb *Table) Time(ctx context.Context, k Kernel, rows, cols int, density float64, batch int) (time.Duration, error) {
	density = math.Round(density/densityStep) * densityStep
	key := fmt.Sprintf("%s %dx%d d%.3f b%d", k, rows, cols, density, batch)
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if ns, ok := tb.ns[key]; ok && ns > 0 {
		return time.Duration(ns), nil
	}
	d, err := tb.t.Time(ctx, k, rows, cols, density, batch)
	if err != nil {
		return 0, fmt.Errorf("runtime: timing %s: %w", key, err)
	}
	tb.ns[key] = int64(max(d, 1))
	tb.dirty = true
	return d, nil
}

// Save writes the table to the cache folder if it has grown. Failing to cache is
// no failure of the program: the error is for a log.
func (tb *Table) Save() error {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if !tb.dirty || tb.path == "" {
		return nil
	}
	b, err := json.MarshalIndent(tableFile{tb.t.Machine(), tb.ns}, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(tb.path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(tb.path), ".kernels-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), tb.path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	tb.dirty = false
	return nil
}
