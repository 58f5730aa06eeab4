package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sparserun/sparserun/codebook"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tokenizer"
)

// An Option changes how Open reads.
type Option func(*options)

type options struct {
	mmap      bool
	nonFinite bool
	maxMemory int64
}

// WithMmap maps files instead of reading them. A file that is cut while mapped
// gives ErrTruncated; one that is overwritten in place gives whatever it holds.
func WithMmap() Option { return func(o *options) { o.mmap = true } }

// WithMaxMemory refuses, before it is allocated, a model whose weights need more
// than n bytes in the form the file has. 0: no limit.
func WithMaxMemory(n int64) Option { return func(o *options) { o.maxMemory = n } }

// AllowNonFinite lets NaN and infinite weights through.
func AllowNonFinite() Option { return func(o *options) { o.nonFinite = true } }

// Open reads a language model: a GGUF file, a safetensors file (with its
// config.json inside or beside it), or a folder in Hugging Face's layout; or any
// other network as an ONNX file, which becomes a tensor graph (model.Graph.Tensors)
// in memory. What a file is, its first bytes say, never its name. Weights stay in the file and are
// read when asked for; Graph.Close releases it.
func Open(path string, opts ...Option) (*model.Graph, error) {
	var o options
	for _, f := range opts {
		f(&o)
	}
	g, err := open(path, &o)
	if err != nil {
		return nil, err
	}
	g.Source.Path = path
	if g.Name == "" {
		g.Name = strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	}
	return g, nil
}

func open(path string, o *options) (*model.Graph, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, osError(path, err)
	}
	if st.IsDir() {
		return openFolder(path, o)
	}
	src, err := openFile(path)
	if err != nil {
		return nil, err
	}
	g, err := openSource(src, path, o)
	if err != nil {
		src.Close()
		return nil, inFile(err, filepath.Base(path))
	}
	return g, nil
}

// kind is what a file's first bytes say it is.
type kind int

const (
	kindUnknown kind = iota
	kindGGUF
	kindSafetensors
	kindZip
	kindPickle
	kindONNX
	kindCodebook
)

func sniff(src *source) (kind, error) {
	if src.size < 8 {
		return kindUnknown, fault(ErrTruncated, "", -1, "file size", "at least 8 bytes", src.size)
	}
	head := make([]byte, min(9, src.size))
	if err := src.readAt(head, 0); err != nil {
		return kindUnknown, err
	}
	switch {
	case string(head[:8]) == codebook.Magic:
		return kindCodebook, nil
	case string(head[:4]) == "GGUF" || string(head[:4]) == "FUGG":
		return kindGGUF, nil
	case string(head[:4]) == "PK\x03\x04":
		return kindZip, nil
	case head[0] == 0x80 && head[1] >= 2 && head[1] <= 5 && (head[2] != 0 || head[3] != 0): // PROTO n and an opcode; a header length has zeros here or is refused anyway
		return kindPickle, nil
	case len(head) == 9 && head[8] == '{':
		return kindSafetensors, nil
	case looksONNX(head):
		return kindONNX, nil
	}
	return kindUnknown, nil
}

// errPickle: a bare pickle is a program; only the zip form that PyTorch writes
// since 1.6 is read, by a reader that runs nothing.
func errPickle() error {
	return fault(ErrUnsupported, "", 0, "bare pickle, which would run code", "GGUF, safetensors or PyTorch's zip form", nil)
}

func openSource(src *source, path string, o *options) (*model.Graph, error) {
	k, err := sniff(src)
	if err != nil {
		return nil, err
	}
	if o.mmap && k == kindGGUF {
		if err := src.mmap(); err != nil {
			return nil, err
		}
	}
	var g *model.Graph
	switch k {
	case kindGGUF:
		g, err = openGGUF(src, o)
		if err == nil {
			g.OnClose(src)
		}
	case kindSafetensors, kindZip:
		g, err = openSafetensors(src, path, o)
	case kindPickle:
		return nil, errPickle()
	case kindONNX:
		g, err = openONNX(src, path, o)
	case kindCodebook:
		g, err = openCodebook(src, o)
	default:
		return nil, fault(ErrFormat, "", 0, "first bytes", "a GGUF, safetensors or ONNX file", nil)
	}
	return g, err
}

// weightSet collects a checkpoint's weights by their Hugging Face names.
type weightSet struct {
	o     *options
	byKey map[string]*model.Weight
	used  map[string]bool
	order []string
}

func newWeightSet(o *options) *weightSet {
	return &weightSet{o: o, byKey: map[string]*model.Weight{}, used: map[string]bool{}}
}

func (s *weightSet) get(name string) *model.Weight { return s.byKey[name] }

func (s *weightSet) add(w *model.Weight) error {
	if s.byKey[w.Name] != nil {
		return fault(ErrFormat, w.Name, -1, "weight occurs twice", nil, nil)
	}
	s.byKey[w.Name] = w
	s.order = append(s.order, w.Name)
	return nil
}

// graph builds the network and refuses weights that it has no use for.
func (s *weightSet) graph(cfg model.Config, tok *tokenizer.Tokenizer) (*model.Graph, error) {
	if s.o.maxMemory > 0 {
		var b sparse.Bytes
		for _, w := range s.byKey {
			b = b.Add(w.Data.Bytes())
		}
		if b.Total() > s.o.maxMemory {
			return nil, fault(ErrLimit, "", -1, "memory for weights", fmt.Sprintf("at most %d bytes", s.o.maxMemory), b.Total())
		}
	}
	g, err := model.NewLlama(cfg, func(name string) (*model.Weight, error) {
		s.used[name] = true
		return s.byKey[name], nil
	})
	if err != nil {
		return nil, err
	}
	for _, name := range s.order {
		if !s.used[name] {
			return nil, fault(ErrWeight, name, -1, "weight has no place in this model", nil, nil)
		}
	}
	if tok != nil && tok.VocabSize() > cfg.Vocab {
		return nil, fault(ErrConfig, "", -1, "tokens of the tokenizer", fmt.Sprint("at most the ", cfg.Vocab, " of the embedding"), tok.VocabSize())
	}
	g.Tokenizer = tok
	return g, nil
}

// isNotExist: a file that may be absent is.
func isNotExist(err error) bool { return errors.Is(err, os.ErrNotExist) }
