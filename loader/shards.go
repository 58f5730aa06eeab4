package loader

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// readShards opens the files that an index names and holds them to it: every
// tensor lies where the index says, and nowhere else.
func (ck *checkpoint) readShards(root *dir, index []byte, o *options) error {
	where := map[string]string{}
	var names []string
	seen := map[string]bool{}
	r, err := newJSON(index, 0)
	if err != nil {
		return err
	}
	err = r.Object(func(key string) error {
		if key != "weight_map" {
			return r.Skip(true)
		}
		return r.Object(func(tensor string) error {
			at := r.at()
			file, err := r.Str()
			if err != nil {
				return err
			}
			if !plainName(file) {
				return fault(ErrFormat, tensor, at, "shard", "a plain file name", file)
			}
			if !seen[file] {
				seen[file] = true
				names = append(names, file)
			}
			if len(names) > maxShardFiles || len(where) == maxTensors {
				return fault(ErrLimit, tensor, at, "shards and tensors", fmt.Sprint("at most ", maxShardFiles, " and ", maxTensors), nil)
			}
			where[tensor] = file
			return nil
		})
	})
	if err == nil {
		err = r.End()
	}
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fault(ErrFormat, "weight_map", -1, "shards", "at least one", 0)
	}
	slices.Sort(names)
	for _, name := range names {
		src, err := root.open(name)
		if err != nil {
			return err
		}
		if err := ck.addFile(src, o); err != nil {
			return err
		}
	}
	found := map[string]bool{}
	for _, t := range ck.tensors {
		if want, ok := where[t.name]; !ok || want != t.src.base {
			return inFile(fault(ErrFormat, t.name, -1, "shard by the index", want, t.src.base), t.src.name)
		}
		found[t.name] = true
	}
	for name, file := range where {
		if !found[name] {
			return fault(ErrFormat, name, -1, "tensor that the index promises is absent", file, nil)
		}
	}
	return nil
}

// plainName: no path, no parent, nothing that a system takes for more than a name.
func plainName(s string) bool {
	return s != "" && len(s) <= 255 && s != "." && s != ".." && !strings.ContainsAny(s, "/\\:\x00") && filepath.IsLocal(s)
}
