// Package loader reads trained models into Graphs and writes pruned ones back.
//
//	Open         GGUF, safetensors, a Hugging Face folder, a PyTorch zip -> *model.Graph
//	OpenTensors  the same files' weights, without an architecture
//	Save         *model.Graph -> one safetensors file, or a folder
//
// Weights stay in the file. A Weight's Data reads, by pread (or through a map,
// WithMmap), just the rows that are asked for, and unpacks them; so opening
// costs the header and the tokenizer, whatever the size of the model.
// sparse.Load brings a matrix into memory in the form the file has. Close the
// Graph only when no weight is read from the file any more.
//
// # Files
//
//   - gguf*.go: GGUF 2 and 3; dequant*.go: its block types; names and the order
//     of RoPE's rows become those of Hugging Face.
//   - safetensors.go, hf.go, shards.go, config.go, dir.go: Hugging Face.
//   - ct*.go: the sparse and quantised formats of compressed-tensors.
//   - torch*.go: PyTorch's zip, by a pickle reader that runs nothing.
//   - save*.go, atomic.go: writing. docs/format.md describes the files.
//   - source.go, stored.go: how weights are read from a file.
//   - json*.go: a strict reader for every JSON text above.
//
// # Trust
//
// Nothing of a file is trusted. Any bytes give a graph or an Error with one of
// this package's sentinels, in one line that names file, tensor, offset, what
// was wanted and what was there. There is no panic, no read outside the file,
// no code from a file that runs, and at most twice the file's size plus 64 MB
// of memory until it is refused. NaN and infinite weights are refused when they
// are read (AllowNonFinite lets them through); sparse metadata is checked, mask
// against values, before anything is decoded by it.
//
// # Caveats
//
// A file that is cut or overwritten while it is open gives ErrTruncated or
// ErrChanged at the next read. Through a map, one overwritten in place within
// the clock's resolution may give what it now holds. Replacing a file by rename,
// as Save does, is always safe. Symbolic links are followed only inside a
// model's folder, or inside its cache folder in Hugging Face's cache.
package loader
