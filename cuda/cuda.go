// Package cuda is the NVIDIA GPU backend. Without the build tag cuda it is a stub
// whose Open says ErrNotBuilt, so that programs name it unconditionally and still
// build with CGO_ENABLED=0.
package cuda

import "errors"

// Errors of this package; every error wraps one of them.
var (
	// ErrNotBuilt: this binary was built without the tag cuda.
	ErrNotBuilt = errors.New("built without CUDA (go build -tags cuda)")
	// ErrNoDevice: no driver, or no GPU.
	ErrNoDevice = errors.New("no CUDA device")
)
