//go:build !amd64

package cpu

func hasBlocks() bool               { return false }
func blockPixels(int) int           { return 1 }
func (a *blockArgs) block(int, int) {}
func (a *blockArgs) winogradIn()    {}
func (a *blockArgs) winogradOut()   {}
func (a *blockArgs) max()           {}
func (a *blockArgs) mean()          {}
func (a *blockArgs) transpose()     {}
