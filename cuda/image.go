package cuda

import (
	"strconv"
	"strings"
)

// pick chooses what a device runs: a cubin runs on its own and on higher minor
// versions of the same major one, but one whose name ends in "a" on its own only;
// PTX runs on everything at least as new, and is what the simulator executes.
func (im *Image) pick(i Info) []byte {
	if i.Simulated {
		return im.PTX
	}
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
	if best == nil {
		return im.PTX
	}
	return best
}
