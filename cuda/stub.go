//go:build !cuda

package cuda

import "fmt"

// Open opens the n-th GPU. Without the tag cuda it fails with ErrNotBuilt.
func Open(n int) (*Backend, error) {
	return nil, fmt.Errorf("cuda: device %d: %w", n, ErrNotBuilt)
}
