// Package cuda is the NVIDIA GPU backend: it compiles a runtime.Plan into kernel
// launches through a Driver. With the build tag cuda the driver is the real one
// (gorgonia.org/cu); without it Open is a stub that says ErrNotBuilt, so that
// programs name this package unconditionally and still build with CGO_ENABLED=0.
// Tests drive the same code with package cuda/simdriver, which executes the PTX
// that nvcc emitted on the CPU.
//
// Activations are float16 on the device, or float32 where the plan's weights are;
// sums are float32. Every matrix has one form in device memory: tensor-core tiles,
// which decoding and batches both read, or the row-major one of the decode kernels
// where no tile kernel fits; see tiled.
package cuda

import (
	"errors"
	"fmt"
)

// Errors of this package; every error wraps one of them.
var (
	// ErrNotBuilt: this binary was built without the tag cuda.
	ErrNotBuilt = errors.New("built without CUDA (go build -tags cuda)")
	// ErrNoDevice: no driver, or no GPU.
	ErrNoDevice = errors.New("no CUDA device")
	// ErrArch: no kernel image for this GPU's compute capability.
	ErrArch = errors.New("no kernels for this GPU's architecture")
	// ErrOutOfMemory: device memory is exhausted.
	ErrOutOfMemory = errors.New("out of device memory")
	// ErrLost: the context is unusable; the program must be rebuilt on a fresh one.
	ErrLost = errors.New("CUDA context lost")
	// ErrDriver: any other answer of the driver.
	ErrDriver = errors.New("CUDA driver error")
)

// DriverError is what the driver answered to a call.
type DriverError struct {
	Call string // "cuMemAlloc_v2"
	Code int    // CUresult
	Name string // "CUDA_ERROR_OUT_OF_MEMORY"
}

func (e *DriverError) Error() string { return fmt.Sprintf("cuda: %s: %s (%d)", e.Call, e.Name, e.Code) }

// Unwrap says which of this package's errors the code is.
func (e *DriverError) Unwrap() error {
	switch e.Code {
	case 2: // CUDA_ERROR_OUT_OF_MEMORY
		return ErrOutOfMemory
	case 3, 34, 100, 101: // not initialised, stub library, no device, invalid device
		return ErrNoDevice
	case 200, 209, 218, 222, 223: // invalid image, no binary for GPU, invalid or unsupported PTX
		return ErrArch
	case 46, 201, 214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719:
		// Device unavailable, invalid context, ECC, and the sticky launch failures:
		// nothing in this context works any more.
		return ErrLost
	}
	return ErrDriver
}
