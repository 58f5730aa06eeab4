//go:build !amd64

package cpu

// blockKernels are kernels for images in blocks, of which there are none here.
type blockKernels struct{}

func blocks() *blockKernels { return nil }

func (k *blockKernels) groupBlocks() int                                           { return 1 }
func (k *blockKernels) pixels(int) int                                             { return 1 }
func (k *blockKernels) block(*blockArgs, int, int)                                 {}
func (k *blockKernels) max(*blockArgs)                                             {}
func (k *blockKernels) mean(*blockArgs)                                            {}
func (k *blockKernels) winogradIn(*blockArgs, int)                                 {}
func (k *blockKernels) winogradOut(*blockArgs, int)                                {}
func (k *blockKernels) transpose(*blockArgs, []float32, int, []float32, int, bool) {}
