// Package kerneltest holds the conformance tests of the CUDA kernels: every kernel,
// as nvcc emitted it, runs in the simulator (cuda/ptxsim) and is compared with a
// plain float64 formula. Nothing else is in it.
//
// A check is a function that returns an error instead of failing a test, so that the
// mutation run (see mutation_test.go) can ask whether it notices a broken kernel.
//
// Tolerances. A kernel that sums n products in float32 may differ from the exact sum
// by (n + 8) 2^-24 sum|a b|, whatever the order; storing a result in f16 adds half
// an ulp, 2^-11 |y|; ex2, rcp and rsqrt of the special function unit are good to
// 2^-21. Each check adds up what its formula uses and no more.
package kerneltest
