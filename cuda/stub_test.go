//go:build !cuda

package cuda

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestStub: a binary without the tag says so instead of failing to build or start.
func TestStub(t *testing.T) {
	b, err := Open(0)
	require.Nil(t, b)
	require.ErrorIs(t, err, ErrNotBuilt)
}
