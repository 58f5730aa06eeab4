package cuda

import (
	"strconv"
	"strings"
)

// serves reports whether a device is worth loading the image for: one that is not for
// every GPU is loaded from a cubin only, since a driver may be too old for its PTX and
// nothing but a few kernels depends on it.
func (im *Image) serves(i Info) bool {
	if im.MinCC > 10*i.Major+i.Minor {
		return false
	}
	return !im.Extra || i.Simulated || im.cubin(i) != nil
}

// pick chooses what a device runs: a cubin, else PTX, which runs on everything at least
// as new, and is what the simulator executes.
func (im *Image) pick(i Info) []byte {
	if i.Simulated {
		return im.PTX
	}
	if b := im.cubin(i); b != nil {
		return b
	}
	return im.PTX
}

// cubin is the best one for a device, nil if none runs there: they run on their own and
// on higher minor versions of the same major one, but one whose name ends in "a" on its
// own only.
func (im *Image) cubin(i Info) []byte {
	cc := 10*i.Major + i.Minor
	var best []byte
	bestCC := 0
	for name, b := range im.Cubins {
		only := strings.HasSuffix(name, "a")
		n, err := strconv.Atoi(strings.TrimSuffix(name, "a"))
		if err != nil || n/10 != i.Major || n > cc || (only && n != cc) || n < bestCC {
			continue
		}
		best, bestCC = b, n
	}
	return best
}
