// Package tokenizer turns text into token ids and back, with the ids that the
// model was trained on.
//
// A Tokenizer comes from what a model file says (New), from a Hugging Face
// tokenizer.json (FromJSON) or from llama2.c's tokenizer.bin (FromLlama2C). It
// is immutable and safe for concurrent use. Encode runs a text through four
// stages:
//
//	text -> added tokens -> normalise -> split into words -> merge -> ids
//
// Added tokens (<|im_start|>) are found first, longest match at the leftmost
// place; special ones only if the caller asks, so that a user's text cannot
// forge them. The gaps between are normalised (normalize.go) and split into
// words (pretoken.go, and pattern.go for the well-known regular expressions,
// written as scanners). Each word then becomes tokens by byte pair encoding
// (bpe.go), over the written form of bytes (bytelevel.go) or over runes with
// bytes as the fallback. Words are cached, since most words of a text have been
// seen before.
//
// Decode is exact for any ids of a byte-level vocabulary that has all bytes.
// A single token may end inside a UTF-8 sequence: Decoder holds such bytes
// back until the rune is whole.
//
// Caveats. A byte or rune that has no token and no fallback is dropped when
// the model names no unknown token, as the reference implementations do.
// Unigram and WordPiece vocabularies are ErrUnsupported.
//
// Files are never trusted: ids out of range, merges of unknown or empty tokens,
// duplicate tokens and merges, and JSON with duplicate keys or deep nesting are
// ErrFormat, and building takes at most twice the input plus 64 MB.
package tokenizer
