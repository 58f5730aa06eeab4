// Package cpu is the CPU backend: portable kernels, which are the reference, and
// AVX2 and AVX-512 twins with the same stem, chosen at run time.
//
// A Program is a list of steps over one arena (program.go, compile.go, build.go).
// A step cuts its work into parts and a pool of workers claims them (pool.go).
// Linear is where the time goes: pack.go repacks each weight for a kernel,
// linear_step.go runs those that share an input as one. Everything else has a file
// of its own named after its op; attention works on a paged KV cache (kv_cache.go).
// Weights, cache and arena live outside the Go heap (alloc.go).
//
// SPARSERUN_ISA=portable|avx2|avx512 lowers the instruction set for a comparison;
// asking for more than the machine has is an error of Compile.
//
// The conformance suite (package backendtest) runs every kernel with every
// instruction set that the machine at hand has, and logs which those were.
package cpu
