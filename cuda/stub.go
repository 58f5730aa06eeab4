//go:build !cuda

package cuda

import (
	"fmt"

	"github.com/sparserun/sparserun/runtime"
)

// Open opens the n-th GPU. Without the tag cuda it fails with ErrNotBuilt.
func Open(n int) (runtime.Backend, error) {
	return nil, fmt.Errorf("cuda: device %d: %w", n, ErrNotBuilt)
}
