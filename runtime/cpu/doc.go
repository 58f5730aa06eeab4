// Package cpu is the CPU backend: portable kernels, which are the reference, and
// AVX2 and AVX-512 twins with the same stem, chosen at run time.
package cpu
