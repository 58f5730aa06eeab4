//go:build !amd64

package cpu

// pause lets a moment pass in a spin loop.
func pause() {
	for range 32 {
		nothing()
	}
}

//go:noinline
func nothing() {}
