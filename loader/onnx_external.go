package loader

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sparserun/sparserun/model"
)

// External data: a tensor's bytes in another file of the model's folder. The
// path comes from the file, so nothing in it is believed: os.Root confines it to
// the folder (symlinks that leave it included), and only a regular file with one
// name is taken. Record of the field: CVE-2022-25882, CVE-2024-27318, CVE-2026-27489.

// maxDataFiles bounds the files of external data of one model.
const maxDataFiles = 1 << 10

// external reads t's n elements.
func (d *onnx) external(t *tensorProto, n int) (*model.Tensor, error) {
	bad := func(what string, want, got any) error { return fault(ErrFormat, t.name, t.at, what, want, got) }
	loc, ok := t.external["location"]
	if !ok || loc == "" {
		return nil, bad("external data without a location", nil, nil)
	}
	if d.root == nil {
		return nil, fault(ErrUnsupported, t.name, t.at, "external data", "a model that is a file in a folder", nil)
	}
	if t.elem == model.ElemString {
		return nil, bad("external data of strings", nil, nil)
	}
	if err := localPath(loc); err != "" {
		return nil, bad("external data location", "a path inside the model's folder", loc+" ("+err+")")
	}
	offset, err := externalNumber(t.external, "offset", 0)
	if err != nil {
		return nil, bad("external data offset", "0 or more", t.external["offset"])
	}
	want := rawBytes(t.elem, n)
	length, err := externalNumber(t.external, "length", want)
	if err != nil {
		return nil, bad("external data length", "0 or more", t.external["length"])
	}
	if length != want {
		return nil, fault(ErrShape, t.name, t.at, "external data length", fmt.Sprintf("%d of %v %v", want, t.elem, t.dims), length)
	}
	src := d.files[loc]
	if src == nil {
		if len(d.files) >= maxDataFiles {
			return nil, fault(ErrLimit, t.name, t.at, "files of external data", fmt.Sprint("at most ", maxDataFiles), "more")
		}
		if err := d.noSymlink(t, loc); err != nil {
			return nil, err
		}
		if src, err = openIn(d.root, filepath.FromSlash(loc)); err != nil {
			return nil, named(err, t.name)
		}
		d.files[loc] = src
		st, err := src.f.Stat()
		if err != nil {
			return nil, osError(src.name, err)
		}
		if k := links(st); k > 1 {
			return nil, inFile(fault(ErrUnsupported, t.name, -1, "external data", "a file with one name", fmt.Sprint(k, " hard links")), src.name)
		}
		d.f.left += 2 * src.size // what the file may cost in memory; WithMaxMemory was taken off before
	}
	if offset > src.size || length > src.size-offset {
		return nil, inFile(fault(ErrTruncated, t.name, offset, "external data", fmt.Sprint(length, " bytes"), max(0, src.size-offset)), src.name)
	}
	return d.fill(t, n, func(b []byte, off int64) error { return src.readAt(b, offset+off) })
}

// noSymlink refuses a path with a symbolic link in it, even one that stays inside:
// what it names could change between looking and opening, and a model has no need
// of it.
func (d *onnx) noSymlink(t *tensorProto, loc string) error {
	part := ""
	for _, p := range strings.Split(loc, "/") {
		part = filepath.Join(part, p)
		st, err := d.root.Lstat(part)
		if err != nil {
			return named(osError(inFolder(d.root, loc), err), t.name)
		}
		if st.Mode()&fs.ModeSymlink != 0 {
			return inFile(fault(ErrUnsupported, t.name, t.at, "external data", "no symbolic link", part), d.f.name)
		}
	}
	return nil
}

func externalNumber(m map[string]string, key string, missing int64) (int64, error) {
	s, ok := m[key]
	if !ok {
		return missing, nil
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err == nil && v < 0 {
		err = strconv.ErrRange
	}
	return v, err
}

// localPath says what is wrong with a path that is to stay in a folder on any
// system, not only this one.
func localPath(p string) string {
	switch {
	case strings.ContainsRune(p, 0):
		return "NUL"
	case strings.HasPrefix(p, "/"), strings.HasPrefix(p, `\`):
		return "absolute"
	case len(p) >= 2 && p[1] == ':':
		return "drive letter"
	case !filepath.IsLocal(filepath.FromSlash(strings.ReplaceAll(p, `\`, "/"))):
		return "leaves the folder"
	}
	return ""
}
