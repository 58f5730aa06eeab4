package loader

import (
	"encoding/base64"
	"errors"
	"path"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tokenizer"
)

const (
	fileConfig  = "config.json"
	fileWeights = "model.safetensors"
	fileTorch   = "pytorch_model.bin"
	fileIndex   = "model.safetensors.index.json"

	maxConfig     = 1 << 20
	maxIndex      = 32 << 20
	maxShardFiles = 1 << 12
)

// Keys under which a single safetensors file carries what a folder has beside it.
const (
	metaConfig    = "sparserun.config"
	metaTokenizer = "sparserun.tokenizer." // + file name
)

// openFolder opens a checkpoint in Hugging Face's layout. Every file is opened
// inside the folder: no name or link in it leads out.
func openFolder(path string, o *options) (*model.Graph, error) {
	root, err := openDir(path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	text, err := root.read(fileConfig, maxConfig)
	if err != nil {
		return nil, err
	}
	ck := &checkpoint{meta: map[string]string{}, config: root.name(fileConfig)}
	g, err := ck.open(root, text, o)
	if err != nil {
		ck.Close()
		return nil, inFile(err, filepath.Base(path))
	}
	return g, nil
}

// checkpoint is the open files of a model and their tensors.
type checkpoint struct {
	files   []*source
	tensors []*safeTensor
	meta    map[string]string
	config  string // how errors name config.json
	format  string // "safetensors" or "pytorch"
}

// Close closes the files.
func (ck *checkpoint) Close() error {
	var err error
	for _, f := range ck.files {
		if e := f.Close(); err == nil {
			err = e
		}
	}
	return err
}

func (ck *checkpoint) open(root *dir, config []byte, o *options) (*model.Graph, error) {
	cfg, err := parseObject(config)
	if err != nil {
		return nil, inFile(err, ck.config)
	}
	if err := ck.readFolder(root, o); err != nil {
		return nil, err
	}
	toks, err := tokenizerFiles(root)
	if err != nil {
		return nil, err
	}
	return ck.graph(cfg, toks, o)
}

// readFolder reads the headers of model.safetensors or of the index's shards.
func (ck *checkpoint) readFolder(root *dir, o *options) error {
	index, err := root.read(fileIndex, maxIndex)
	if isNotExist(err) {
		src, err := root.open(fileWeights)
		if isNotExist(err) {
			if old, err2 := root.open(fileTorch); err2 == nil {
				return ck.addFile(old, o)
			}
		}
		if err != nil {
			return err
		}
		return ck.addFile(src, o)
	}
	if err != nil {
		return err
	}
	return inFile(ck.readShards(root, index, o), root.name(fileIndex))
}

// addFile reads the header of one file.
func (ck *checkpoint) addFile(src *source, o *options) error {
	ck.files = append(ck.files, src)
	if o.mmap {
		if err := src.mmap(); err != nil {
			return err
		}
	}
	k, err := sniff(src)
	if err != nil {
		return inFile(err, src.name)
	}
	var tensors []*safeTensor
	var meta map[string]string
	switch k {
	case kindZip:
		ck.format = "pytorch"
		tensors, err = readTorch(src)
	case kindPickle:
		err = errPickle()
	default:
		ck.format = "safetensors"
		tensors, meta, err = readSafetensors(src)
	}
	if err != nil {
		return inFile(err, src.name)
	}
	ck.tensors = append(ck.tensors, tensors...)
	for k, v := range meta {
		ck.meta[k] = v
	}
	return nil
}

// tokenizerFiles reads what a folder has of a tokenizer.
func tokenizerFiles(root *dir) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, name := range append([]string{fileTokenizer, fileTokenizerConfig, fileTokenizerSpec}, llama2cNames...) {
		b, err := root.read(name, maxTokenizer)
		if isNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[name] = b
	}
	return out, nil
}

// newTokenizer builds a tokenizer from its files; nil, nil where there are none.
// It keeps in files what it used.
func newTokenizer(files map[string][]byte) (*tokenizer.Tokenizer, func() (map[string][]byte, error), error) {
	keep := map[string][]byte{}
	var tok *tokenizer.Tokenizer
	var err error
	name := ""
	switch {
	case files[fileTokenizer] != nil && files[fileTokenizerSpec] == nil:
		name = fileTokenizer
		if c := files[fileTokenizerConfig]; c != nil {
			keep[fileTokenizerConfig] = c
		}
		tok, err = tokenizer.FromJSON(files[fileTokenizer], files[fileTokenizerConfig])
	case files[fileTokenizerSpec] != nil:
		name = fileTokenizerSpec
		var s tokenizer.Spec
		if s, err = parseSpec(files[name]); err != nil {
			return nil, nil, inFile(err, name)
		}
		tok, err = tokenizer.New(s)
	default:
		for _, n := range llama2cNames {
			if files[n] != nil {
				name = n
				tok, err = tokenizer.FromLlama2C(files[n])
				break
			}
		}
	}
	if name == "" {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, inFile(tokenizerError(err), name)
	}
	keep[name] = files[name]
	return tok, func() (map[string][]byte, error) { return keep, nil }, nil
}

// graph builds the network from config.json's object and the tensors.
func (ck *checkpoint) graph(text object, toks map[string][]byte, o *options) (*model.Graph, error) {
	cfg, err := hfConfig(text)
	if err != nil {
		return nil, inFile(err, ck.config)
	}
	if err := cfg.Check(); err != nil { // before any tensor is looked at
		return nil, inFile(err, ck.config)
	}
	weights, err := ck.weights(text, o)
	if err != nil {
		return nil, err
	}
	set := newWeightSet(o)
	for _, w := range weights {
		switch w.Data.DType() {
		case sparse.Int16, sparse.Int32, sparse.Int64, sparse.Uint8, sparse.Bool:
			return nil, fault(ErrUnsupported, w.Name, -1, "type of a weight", "floating point or quantised with scales", w.Data.DType())
		}
		if strings.HasSuffix(w.Name, ".rotary_emb.inv_freq") || (cfg.Tied && w.Name == "lm_head.weight") {
			continue // computed anyway, or the embedding again
		}
		if err := set.add(w); err != nil {
			return nil, err
		}
	}
	tok, files, err := newTokenizer(toks)
	if err != nil {
		var e *Error
		if folder := path.Dir(ck.config); errors.As(err, &e) && folder != "." { // as files of the folder are named elsewhere
			e.File = path.Join(folder, e.File)
		}
		return nil, err
	}
	g, err := set.graph(cfg, tok)
	if err != nil {
		return nil, err
	}
	g.Source = model.Source{Format: ck.format, Meta: ck.meta, Tokenizer: files}
	g.OnClose(ck)
	return g, nil
}

// openSafetensors opens a single file: its configuration and tokenizer lie in
// its metadata, where Save put them, or beside it.
func openSafetensors(src *source, path string, o *options) (*model.Graph, error) {
	ck := &checkpoint{meta: map[string]string{}, config: src.name + "/" + metaConfig}
	if err := ck.addFile(src, o); err != nil {
		return nil, err
	}
	config, toks := []byte(ck.meta[metaConfig]), map[string][]byte{}
	for k, v := range ck.meta {
		name, ok := strings.CutPrefix(k, metaTokenizer)
		if !ok {
			continue
		}
		delete(ck.meta, k)
		if len(v) > maxTokenizer {
			return nil, fault(ErrLimit, k, -1, "size", maxTokenizer, len(v))
		}
		text := unsafe.Slice(unsafe.StringData(v), len(v)) // read only; a copy of 64 MB would count
		if n, ok := strings.CutSuffix(name, base64Mark); ok {
			b, err := base64.StdEncoding.DecodeString(v)
			if err != nil {
				return nil, fault(ErrFormat, k, -1, "base64", nil, err.Error())
			}
			name, text = n, b
		}
		toks[name] = text
	}
	if len(config) == 0 {
		root, err := openDir(filepath.Dir(path))
		if err != nil {
			return nil, err
		}
		defer root.Close()
		ck.config = root.name(fileConfig)
		if config, err = root.read(fileConfig, maxConfig); err != nil {
			if isNotExist(err) {
				return nil, fault(ErrConfig, "", -1, "no config.json in the metadata or beside the file", nil, nil)
			}
			return nil, err
		}
		if toks, err = tokenizerFiles(root); err != nil {
			return nil, err
		}
	}
	delete(ck.meta, metaConfig)
	if len(config) > maxConfig {
		return nil, fault(ErrLimit, metaConfig, -1, "size", maxConfig, len(config))
	}
	cfg, err := parseObject(config)
	if err != nil {
		return nil, inFile(err, ck.config)
	}
	return ck.graph(cfg, toks, o)
}
