package registry

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxName = 200 // bytes

// verbs follow a name in paths of the Open Inference Protocol; versions has one part more
// after it.
var verbs = []string{"ready", "stats", "infer", "generate", "generate_stream", "load", "unload", "versions"}

// CheckName reports why a model may not be called so, by an error that wraps ErrName: a
// name stands in paths (slashes are allowed; parts that a path loses, or that the Open
// Inference Protocol has after a name, are not), in labels of metrics, where one that is no UTF-8 would cost the whole scrape, and in logs.
func CheckName(name string) error {
	switch parts := strings.Split(name, "/"); {
	case len(name) > maxName:
		return fmt.Errorf("registry: name: want at most %d bytes, got %d: %w", maxName, len(name), ErrName)
	case !utf8.ValidString(name), strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("registry: name: want UTF-8 without control characters, got %q: %w", name, ErrName)
	case slices.Contains(parts, ""), slices.Contains(parts, "."), slices.Contains(parts, ".."):
		return fmt.Errorf("registry: name: want no empty part, . or .. between slashes, got %q: %w", name, ErrName)
	case slices.Contains(verbs, parts[len(parts)-1]), len(parts) > 1 && parts[len(parts)-2] == "versions":
		return fmt.Errorf("registry: name: want none of %s as the last part, nor versions before it (paths have them after a name), got %q: %w",
			strings.Join(verbs, ", "), name, ErrName)
	}
	return nil
}

// entry is a name.
type entry struct {
	spec    Spec
	lock    chan struct{} // holds a token while somebody loads or unloads
	model   *Model        // that serves; nil: none
	loading bool
	added   bool // stays, though it never loads
	version int
	reason  string
}

// begin waits for whoever loads or unloads the name.
func (e *entry) begin(ctx context.Context) error {
	select {
	case e.lock <- struct{}{}:
		return nil
	default:
	}
	select {
	case e.lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// entry finds or makes a name; the lock is held.
func (r *Registry) entry(name string) *entry {
	e := r.entries[name]
	if e == nil {
		e = &entry{lock: make(chan struct{}, 1), reason: "not loaded yet", spec: Spec{Name: name}}
		r.entries[name] = e
		r.order = append(r.order, name)
	}
	return e
}

// begin finds or makes a name for a load and waits for whoever loads or unloads it. The
// name is known until the caller frees its lock, whatever those before did with it.
func (r *Registry) begin(ctx context.Context, name string) (*entry, error) {
	for {
		r.mu.Lock()
		if r.closed {
			r.mu.Unlock()
			return nil, fmt.Errorf("registry: %w", ErrClosed)
		}
		if r.entries[name] == nil { // ours at once: a new name has one who forgets it
			e := r.entry(name)
			e.lock <- struct{}{}
			r.mu.Unlock()
			return e, nil
		}
		e := r.entries[name]
		r.mu.Unlock()
		if err := e.begin(ctx); err != nil {
			return nil, err
		}
		r.mu.Lock()
		known := r.entries[name] == e
		r.mu.Unlock()
		if known {
			return e, nil
		}
		<-e.lock // forgotten meanwhile
	}
}

// forget takes out a name that never loaded: nobody knows it but from a load that
// failed. The lock is held.
func (r *Registry) forget(name string, e *entry) {
	if e.version == 0 && !e.added {
		delete(r.entries, name)
		r.order = slices.DeleteFunc(r.order, func(n string) bool { return n == name })
	}
}
