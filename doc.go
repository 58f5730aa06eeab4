// Package sparserun is a sparse inference runtime: a trained model goes in, a
// smaller and faster one comes out and is served, and every step shows what
// sparsity bought.
//
//	file -> loader -> model.Graph -> prune (+ train) -> sparse (pack) -> runtime.Plan -> cpu | cuda Program -> Counters -> cmd / serve
//
// The module has no code at its root; this page is the map.
//
//   - loader: file -> model.Graph. GGUF, safetensors with Hugging Face
//     configuration, compressed-tensors; saving. It trusts no byte.
//   - tokenizer: text <-> ids, and chat templates (tokenizer/chat).
//   - model: what a network is: Graph, Node, Op, Weight; the Llama family.
//   - sparse: the forms of a weight matrix - dense, 2:4, bitmask, CSR - and packing.
//     A leaf: it knows nothing of networks.
//   - linalg: float32 matrix and row kernels with SIMD. A leaf.
//   - prune: scores, patterns, calibration, schedules, reports. prune/depgraph removes
//     neurons, channels, heads and blocks from any graph.
//   - codebook: shared weights with Huffman codes (Deep Compression), as a file.
//   - train: forward and backward under a mask.
//   - experiment: published tables, run again: Han 2015, Deep Compression, the Lottery Ticket,
//     accuracy against sparsity, a slimmed ResNet-20.
//   - tensorop: ONNX's ops on typed tensors, portable; shape inference.
//   - dataset: MNIST, CIFAR, folders of photographs, samples from .npz and JSON lines; accuracy of a classifier.
//   - runtime: Plan, the choice of a form per layer, Session, generation, Counters,
//     and the seam to backends. runtime/cpu is the CPU backend, cuda the GPU one,
//     runtime/backendtest what both must pass.
//   - serve: the server. serve/engine batches requests, serve/registry holds models by
//     name, serve/openai and serve/oip speak the protocols, serve/openapi describes them,
//     serve/otlp sends spans to a collector.
//   - strictjson: JSON that nobody vouches for. A leaf.
//   - cmd/sparserun: the command line, one file per verb.
//   - testenv: where tests find data and models that are not in the repository.
//
// # Caveats
//
//   - Weights of an opened Graph stay in the file and are read when asked for.
//     Close the Graph when its weights have been packed or saved; a Session holds
//     its own copies and outlives it.
//   - A Session is safe for concurrent use; a Sequence belongs to one goroutine.
//   - A CPU has no 2:4 arithmetic: there 2:4 saves bytes, not operations. It wins
//     where reading weights is the limit (decode), not where multiplying is.
//   - One-shot magnitude pruning of a language model to 2:4 ruins it. Use a
//     calibrated method, or fine-tune.
package sparserun
