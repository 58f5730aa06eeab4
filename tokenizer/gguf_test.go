package tokenizer_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/testenv"
	"github.com/sparserun/sparserun/tokenizer"
)

// ggufMeta reads the metadata of a trusted GGUF v3 file: just enough for these
// tests, which must not depend on the loader.
func ggufMeta(t testing.TB, path string) map[string]any {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, 8<<20))
	require.NoError(t, err)
	r := bytes.NewReader(head)
	read := func(v any) { require.NoError(t, binary.Read(r, binary.LittleEndian, v)) }
	u64 := func() (n uint64) { read(&n); return }
	u32 := func() (n uint32) { read(&n); return }
	str := func() string { b := make([]byte, u64()); read(b); return string(b) }
	var value func(kind uint32) any
	value = func(kind uint32) any {
		switch kind {
		case 4, 5, 6:
			return u32()
		case 7:
			var b uint8
			read(&b)
			return b != 0
		case 8:
			return str()
		case 9:
			elem, n := u32(), u64()
			list := make([]any, n)
			for i := range list {
				list[i] = value(elem)
			}
			return list
		}
		t.Fatalf("gguf value type %d", kind)
		return nil
	}
	require.Equal(t, "GGUF", string(head[:4]))
	u64() // magic, version
	u64() // tensors
	meta := map[string]any{}
	for range u64() {
		key := str()
		meta[key] = value(u32())
	}
	return meta
}

// smolSpec is the Spec of the real model.
func smolSpec(t testing.TB) tokenizer.Spec {
	t.Helper()
	m := ggufMeta(t, testenv.Model(t))
	id := func(key string) int { return int(m["tokenizer.ggml."+key].(uint32)) }
	s := tokenizer.Spec{
		Model: m["tokenizer.ggml.model"].(string), Pre: m["tokenizer.ggml.pre"].(string),
		BOS: id("bos_token_id"), EOS: id("eos_token_id"), UNK: id("unknown_token_id"), PAD: id("padding_token_id"),
		AddBOS:         m["tokenizer.ggml.add_bos_token"].(bool),
		AddSpacePrefix: m["tokenizer.ggml.add_space_prefix"].(bool),
		ChatTemplate:   m["tokenizer.chat_template"].(string),
	}
	for _, v := range m["tokenizer.ggml.tokens"].([]any) {
		s.Tokens = append(s.Tokens, v.(string))
	}
	for _, v := range m["tokenizer.ggml.token_type"].([]any) {
		s.Types = append(s.Types, int32(v.(uint32)))
	}
	for _, v := range m["tokenizer.ggml.merges"].([]any) {
		s.Merges = append(s.Merges, v.(string))
	}
	return s
}

func smol(t testing.TB) *tokenizer.Tokenizer {
	t.Helper()
	tok, err := tokenizer.New(smolSpec(t))
	require.NoError(t, err)
	return tok
}
