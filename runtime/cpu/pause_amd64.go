package cpu

// pause tells the core that this is a spin loop, some hundred cycles long.
//
//go:noescape
func pause()
