// Package prune removes weights of a model.Graph and says what it cost.
//
// A Method decides which weights go (Magnitude, Random; with calibration data
// Wanda, SparseGPT, ...), a Pattern how many and where (Unstructured, NM,
// Block). Apply and Run replace the weights of a graph by their pruned, packed
// form and return a Report; Verify checks a graph against the recipe that a
// Report carries into the file.
//
// # What is pruned
//
// The Linear layers of the network. Embeddings, norms, biases and a language
// model's head stay, and so does a matrix that one of them shares. Options'
// Include and Exclude change the rule.
//
// # Networks in training
//
// Tune and TuneNet prune any network that train can lower, together with
// fine-tuning: a Criterion (Magnitude, MagnitudeStd, LAMP, Random, SNIP, Taylor,
// Fisher, Movement) ranks weights, a Schedule raises sparsity, a gate keeps the
// last network that is good enough, Splice lets pruned weights return. ScanNet
// measures what each matrix bears and gives matrices their own rates.
//
// # Reproducible masks
//
// The same weights, method, pattern, seed and Version give the same mask bit for
// bit on every machine and at any number of threads. Scores are compared as bit
// patterns, exactly k weights go, and equal scores go by position, first column
// first. Methods with calibration accumulate in a fixed order.
package prune
