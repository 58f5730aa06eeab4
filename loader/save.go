package loader

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// Format says how Save stores pruned weights.
type Format uint8

const (
	// FormatCompressed stores every weight in its own layout: 2:4 as
	// sparse-24-bitmask, bitmask and CSR as sparse-bitmask, quantised ones as
	// int-quantized or pack-quantized, all of compressed-tensors; see docs/format.md.
	FormatCompressed Format = iota
	// FormatDense stores every weight dense and unquantised, zeros included.
	FormatDense
	// FormatCodebook stores the matrices of a tensor graph as Deep Compression does: a codebook,
	// gaps between nonzero weights, Huffman codes. Vectors of weights become float16.
	FormatCodebook
)

// SaveOptions changes how Save writes.
type SaveOptions struct {
	Format Format
	// DType of unquantised matrices: F16 (also for 0), BF16 or F32. Vectors that
	// are f32 stay f32.
	DType sparse.DType
	// Codebook is the largest number of entries of a codebook, with FormatCodebook; default 256. A
	// matrix of more distinct values is clustered.
	Codebook int
	// Meta goes into the file's metadata: provenance.
	Meta map[string]string
	// Progress is told the bytes written so far; nil: nobody is.
	Progress func(done, total int64)

	fs fileSystem // nil: the disk
}

// Save writes a language model: one safetensors file that carries its
// configuration and tokenizer in its metadata, or, where path ends in a slash
// or is a folder, Hugging Face's layout; a tensor graph becomes an ONNX file whose
// weights keep their types. The file appears whole or not at all.
func Save(g *model.Graph, path string, opts SaveOptions) error {
	return SaveContext(context.Background(), g, path, opts)
}

// SaveContext is Save that stops, leaving nothing, when ctx ends.
func SaveContext(ctx context.Context, g *model.Graph, path string, opts SaveOptions) error {
	if opts.fs == nil {
		opts.fs = disk{}
	}
	if g.Tensors() {
		return saveONNX(ctx, g, path, opts)
	}
	if opts.Format == FormatCodebook {
		return inFile(fault(ErrUnsupported, "", -1, "saving with a codebook", "a tensor graph (ONNX)", nil), path)
	}
	if opts.DType == 0 {
		opts.DType = sparse.F16
	}
	switch opts.DType {
	case sparse.F16, sparse.BF16, sparse.F32:
	default:
		return inFile(fault(ErrUnsupported, "", -1, "type to save", "f16, bf16 or f32", opts.DType), path)
	}
	if g.Config == nil {
		return inFile(fault(ErrUnsupported, "", -1, "saving a network that is no language model", nil, nil), path)
	}
	s := &saver{opts: opts, ctx: ctx, groups: map[scheme][]string{}}
	for _, w := range g.Weights {
		if err := s.plan(w); err != nil {
			return inFile(err, path)
		}
	}
	if err := s.finish(); err != nil {
		return inFile(err, path)
	}
	config, err := json.MarshalIndent(s.config(g), "", "  ")
	if err != nil {
		return inFile(err, path)
	}
	toks := map[string][]byte{}
	if g.Tokenizer != nil && g.Source.Tokenizer != nil {
		if toks, err = g.Source.Tokenizer(); err != nil {
			return inFile(err, path)
		}
	}
	meta := map[string]string{"format": "pt"} // without it transformers refuses the file
	maps.Copy(meta, opts.Meta)

	st, err := os.Stat(path)
	if strings.HasSuffix(path, "/") || (err == nil && st.IsDir()) {
		return s.folder(path, meta, config, toks)
	}
	meta[metaConfig] = string(config)
	for name, b := range toks {
		if utf8.Valid(b) {
			meta[metaTokenizer+name] = string(b)
		} else {
			meta[metaTokenizer+name+base64Mark] = base64.StdEncoding.EncodeToString(b)
		}
	}
	return atomically(opts.fs, path, func(w io.Writer) error { return s.write(w, meta) })
}

// base64Mark ends the metadata key of a tokenizer file that is no text.
const base64Mark = ";base64"

func (s *saver) folder(path string, meta map[string]string, config []byte, toks map[string][]byte) error {
	if _, err := os.Stat(path + "/" + fileIndex); err == nil {
		return inFile(fault(ErrUnsupported, "", -1, "folder", "no "+fileIndex+", which would hide the new weights", nil), path)
	}
	text := func(b []byte) func(io.Writer) error {
		return func(w io.Writer) error { _, err := w.Write(b); return err }
	}
	if b := toks[fileTokenizerSpec]; b != nil {
		if spec, err := parseSpec(b); err == nil { // what transformers reads, too
			maps.Copy(toks, hfTokenizer(&spec))
		}
	}
	parts := []part{{fileWeights, func(w io.Writer) error { return s.write(w, meta) }}}
	for _, name := range slices.Sorted(maps.Keys(toks)) {
		parts = append(parts, part{name, text(toks[name])})
	}
	return folderAtomically(s.opts.fs, path, append(parts, part{fileConfig, text(config)}))
}

// A tensor is one entry of the file to be.
type tensor struct {
	name  string
	dtype string // safetensors' name
	shape []int
	write func(w io.Writer) error
}

var dtypeSize = map[string]int{"I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "U8": 1, "I8": 1, "F8_E4M3": 1}

func (t *tensor) size() int64 {
	n := int64(dtypeSize[t.dtype])
	for _, d := range t.shape {
		n *= int64(d)
	}
	return n
}

// saver plans a file, then writes it tensor by tensor.
type saver struct {
	opts    SaveOptions
	ctx     context.Context
	tensors []*tensor
	pending []pendingSparse
	groups  map[scheme][]string // modules by quantisation
	sparse  []string            // modules that are stored sparse
	linears []string            // all modules with a matrix
	only24  bool                // all sparse ones are 2:4
	kept    int64               // weights that are stored, of
	weights int64               // all in matrices
	bias    map[string]bool     // kinds of module that have one
}

// write streams the file: header, then data in order.
func (s *saver) write(w io.Writer, meta map[string]string) error {
	// Larger types first keeps every tensor aligned to its type.
	slices.SortStableFunc(s.tensors, func(a, b *tensor) int { return dtypeSize[b.dtype] - dtypeSize[a.dtype] })
	head, total, err := header(s.tensors, meta)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(&counter{w: w, s: s, total: total}, 1<<20)
	if _, err := out.Write(head); err != nil {
		return err
	}
	for _, t := range s.tensors {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		n := int64(0)
		err := t.write(writerFunc(func(b []byte) (int, error) {
			n += int64(len(b))
			return out.Write(b)
		}))
		if err != nil {
			return err
		}
		if n != t.size() {
			return fault(ErrShape, t.name, -1, "bytes written", t.size(), n)
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return s.ctx.Err()
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// counter reports progress and stops at the end of the context.
type counter struct {
	w           io.Writer
	s           *saver
	done, total int64
}

func (c *counter) Write(b []byte) (int, error) {
	if err := c.s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.w.Write(b)
	c.done += int64(n)
	if c.s.opts.Progress != nil {
		c.s.opts.Progress(c.done, c.total)
	}
	return n, err
}

// header is the length and the JSON object, padded to 8 bytes; total is the size
// of the whole file.
func header(tensors []*tensor, meta map[string]string) (head []byte, total int64, err error) {
	type entry struct {
		DType   string   `json:"dtype"`
		Shape   []int    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	// Written by hand: encoding/json would sort the keys, and file order is nicer
	// to read.
	b := append(make([]byte, 8), `{"__metadata__":`...)
	js, err := json.Marshal(meta)
	if err != nil {
		return nil, 0, err
	}
	b = append(b, js...)
	at := int64(0)
	for _, t := range tensors {
		name, err := json.Marshal(t.name)
		if err != nil {
			return nil, 0, err
		}
		js, err := json.Marshal(entry{t.dtype, t.shape, [2]int64{at, at + t.size()}})
		if err != nil {
			return nil, 0, err
		}
		at += t.size()
		b = append(b, ',')
		b = append(append(append(b, name...), ':'), js...)
	}
	b = append(b, '}')
	for len(b)%8 != 0 {
		b = append(b, ' ')
	}
	n := len(b) - 8
	if n > maxHeader {
		return nil, 0, fault(ErrLimit, "", -1, "header to write", fmt.Sprint("at most ", maxHeader), n)
	}
	for i := range 8 {
		b[i] = byte(n >> (8 * i))
	}
	return b, int64(len(b)) + at, nil
}
