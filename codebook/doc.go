// Package codebook stores pruned weights as Deep Compression does (Han, Mao & Dally 2016):
// the values that are left share the entries of a small codebook (k-means), their places are
// gaps between neighbours, and both are Huffman coded.
//
//	c := codebook.Cluster(w, 32)             // w becomes at most 32 distinct values, and zeros
//	b, st, err := codebook.Encode(w, 32)     // exact for such a w, else clustered first
//	w, err = codebook.Decode(b, len(w))
//
// File is a container of such tensors beside a network's description; docs/format.md has its
// layout. It knows nothing of networks.
//
// # Trust
//
// Nothing of the bytes is trusted: Decode and Read give ErrFormat, ErrTruncated or ErrLimit,
// take no memory beyond what the caller's element counts allow, and never panic.
package codebook

import "errors"

// Errors of this package; every error wraps one of them.
var (
	ErrFormat    = errors.New("malformed codebook data")
	ErrTruncated = errors.New("codebook data too short")
	ErrLimit     = errors.New("limit exceeded")
	ErrValue     = errors.New("weight or setting that cannot be coded")
)
