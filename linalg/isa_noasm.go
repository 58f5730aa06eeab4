//go:build !amd64

package linalg

func detect() InstructionSet { return Portable }
