package loader

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/sparserun/sparserun/tokenizer"
)

// Names of a tokenizer's files in a folder.
const (
	fileTokenizer       = "tokenizer.json"
	fileTokenizerConfig = "tokenizer_config.json"
	fileTokenizerSpec   = "sparserun_tokenizer.json" // tokenizer.Spec, where a model had no tokenizer.json
)

// llama2cNames are the names under which llama2.c's tokenizer lies about.
var llama2cNames = []string{"tokenizer.bin", "tok512.bin"}

// maxTokenizer bounds a tokenizer's file; the largest known is 33 MB.
const maxTokenizer = 64 << 20

// maxSpecList bounds each list of a tokenizer.Spec in a file.
const maxSpecList = 1 << 20

// specFiles gives a tokenizer that came from GGUF the form of a file. It is
// written when asked for: its strings are shared with the tokenizer.
func specFiles(s tokenizer.Spec) func() (map[string][]byte, error) {
	return func() (map[string][]byte, error) {
		for i, t := range s.Tokens {
			if !utf8.ValidString(t) {
				return nil, errToken(i)
			}
		}
		b, err := json.Marshal(s)
		return map[string][]byte{fileTokenizerSpec: b}, err
	}
}

// parseSpec reads what specFiles wrote, strictly: no key twice, none unknown.
func parseSpec(b []byte) (tokenizer.Spec, error) {
	var s tokenizer.Spec
	r, err := newJSON(b, 0)
	if err != nil {
		return s, err
	}
	list := func() (int, error) {
		n, err := r.Count()
		if err == nil && n > maxSpecList {
			err = fault(ErrLimit, "", r.at(), "list", fmt.Sprint("at most ", maxSpecList), n)
		}
		return n, err
	}
	strs := func(dst *[]string) error {
		if null, err := r.Null(); null || err != nil {
			return err
		}
		n, err := list()
		if err != nil {
			return err
		}
		*dst = make([]string, n)
		return r.Array(func(i int) (err error) {
			(*dst)[i], err = r.Str()
			return err
		})
	}
	floats := func(f func(float64)) error {
		if null, err := r.Null(); null || err != nil {
			return err
		}
		if _, err := list(); err != nil {
			return err
		}
		return r.Array(func(int) error {
			v, err := r.Float()
			f(v)
			return err
		})
	}
	integer := func(dst *int) error {
		v, err := r.Float()
		if *dst = int(v); err == nil && float64(*dst) != v {
			err = r.Fail("a whole number before")
		}
		return err
	}
	err = r.Object(func(key string) (err error) {
		switch key {
		case "Model":
			s.Model, err = r.Str()
		case "Pre":
			s.Pre, err = r.Str()
		case "ChatTemplate":
			s.ChatTemplate, err = r.Str()
		case "Tokens":
			err = strs(&s.Tokens)
		case "Merges":
			err = strs(&s.Merges)
		case "Scores":
			err = floats(func(v float64) { s.Scores = append(s.Scores, float32(v)) })
		case "Types":
			err = floats(func(v float64) { s.Types = append(s.Types, int32(v)) })
		case "ExtraEOS":
			err = floats(func(v float64) { s.ExtraEOS = append(s.ExtraEOS, int(v)) })
		case "BOS":
			err = integer(&s.BOS)
		case "EOS":
			err = integer(&s.EOS)
		case "UNK":
			err = integer(&s.UNK)
		case "PAD":
			err = integer(&s.PAD)
		case "AddBOS":
			s.AddBOS, err = r.Bool()
		case "AddEOS":
			s.AddEOS, err = r.Bool()
		case "AddSpacePrefix":
			s.AddSpacePrefix, err = r.Bool()
		default:
			err = r.Fail("a key of tokenizer.Spec before")
		}
		return err
	})
	if err == nil {
		err = r.End()
	}
	return s, err
}
