package loader

import (
	"os"
	"path/filepath"
)

// dir is a folder of a checkpoint, open so that no name or link in it leads
// out. In Hugging Face's cache the files of a snapshot are links into a folder
// "blobs" beside the snapshots: there the model's cache folder is the border.
type dir struct {
	root  *os.Root
	at    string // the folder, inside root
	shown string // how errors name it
}

func openDir(path string) (*dir, error) {
	d := &dir{at: ".", shown: filepath.Base(path)}
	border := path
	if abs, err := filepath.Abs(path); err == nil && filepath.Base(filepath.Dir(abs)) == "snapshots" {
		cache := filepath.Dir(filepath.Dir(abs))
		if st, err := os.Lstat(filepath.Join(cache, "blobs")); err == nil && st.IsDir() {
			border, d.at = cache, filepath.Join("snapshots", filepath.Base(abs))
		}
	}
	var err error
	if d.root, err = os.OpenRoot(border); err != nil {
		return nil, osError(path, err)
	}
	return d, nil
}

func (d *dir) Close() error { return d.root.Close() }

// name is how errors name a file of the folder.
func (d *dir) name(file string) string { return filepath.Join(d.shown, file) }

// open opens a file of the folder.
func (d *dir) open(file string) (*source, error) {
	f, err := d.root.OpenFile(filepath.Join(d.at, file), os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, osError(d.name(file), err)
	}
	return newSource(f, d.name(file), file)
}

// read reads a whole file of at most limit bytes.
func (d *dir) read(file string, limit int64) ([]byte, error) {
	src, err := d.open(file)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	return src.all(limit)
}
