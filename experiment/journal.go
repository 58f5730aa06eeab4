package experiment

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// Journal is a file of finished results, one JSON line each. A line that was cut off, by a
// crash, is as if it had never been written. nil keeps nothing.
type Journal struct {
	mu   sync.Mutex
	path string
	done map[string]json.RawMessage
}

type entry struct {
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
}

// OpenJournal reads a journal; one that does not exist is empty.
func OpenJournal(path string) (*Journal, error) {
	j := &Journal{path: path, done: map[string]json.RawMessage{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return nil, fmt.Errorf("experiment: %w", err)
	}
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, 1<<26)
	for sc.Scan() {
		var e entry
		if json.Unmarshal(sc.Bytes(), &e) == nil && e.Key != "" {
			j.done[e.Key] = e.Value
		}
	}
	return j, sc.Err()
}

// once fills v with what the journal has of key, or with what f makes, which it then keeps.
func once[T any](j *Journal, key string, f func() (T, error)) (T, error) {
	var v T
	if j != nil {
		j.mu.Lock()
		b, ok := j.done[key]
		j.mu.Unlock()
		if ok && json.Unmarshal(b, &v) == nil {
			return v, nil
		}
	}
	v, err := f()
	if err != nil || j == nil {
		return v, err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return v, fmt.Errorf("experiment: %w", err)
	}
	line, err := json.Marshal(entry{key, b})
	if err != nil {
		return v, fmt.Errorf("experiment: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	f2, err := os.OpenFile(j.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return v, fmt.Errorf("experiment: %w", err)
	}
	defer f2.Close()
	// A line before it that was cut off must not swallow this one.
	if _, err := f2.Write(append(append([]byte{'\n'}, line...), '\n')); err != nil {
		return v, fmt.Errorf("experiment: %w", err)
	}
	j.done[key] = b
	return v, f2.Sync()
}
