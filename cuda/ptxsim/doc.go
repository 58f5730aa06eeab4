// Package ptxsim executes PTX, as nvcc emits it, on the CPU.
package ptxsim
