package loader

import (
	"os"
	"path/filepath"

	"github.com/sparserun/sparserun/model"
)

// OpenTensors reads the weights of a safetensors file or Hugging Face folder
// without asking for an architecture. close releases the files.
func OpenTensors(path string, opts ...Option) (weights []*model.Weight, closeFiles func() error, err error) {
	var o options
	for _, f := range opts {
		f(&o)
	}
	ck := &checkpoint{meta: map[string]string{}}
	weights, err = ck.tensorsOf(path, &o)
	if err != nil {
		ck.Close()
		return nil, nil, inFile(err, filepath.Base(path))
	}
	return weights, ck.Close, nil
}

func (ck *checkpoint) tensorsOf(path string, o *options) ([]*model.Weight, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, osError(path, err)
	}
	if !st.IsDir() {
		src, err := openFile(path)
		if err != nil {
			return nil, err
		}
		if err := ck.addFile(src, o); err != nil {
			return nil, err
		}
		return ck.weights(nil, o)
	}
	root, err := openDir(path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	ck.config = root.name(fileConfig)
	var cfg object
	text, err := root.read(fileConfig, maxConfig)
	if err == nil {
		if cfg, err = parseObject(text); err != nil {
			return nil, inFile(err, ck.config)
		}
	} else if !isNotExist(err) {
		return nil, err
	}
	if err := ck.readFolder(root, o); err != nil {
		return nil, err
	}
	return ck.weights(cfg, o)
}
