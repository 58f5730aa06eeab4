//go:build !amd64

package cpu

func hasBlocks() bool                  { return false }
func blockPixels(int) int              { return 1 }
func (a *blockArgs) block(int, int)    {}
func (a *blockArgs) winogradInFull()   {}
func (a *blockArgs) winogradInHalf()   {}
func (a *blockArgs) winogradEdgeFull() {}
func (a *blockArgs) winogradEdgeHalf() {}
func (a *blockArgs) winogradOutFull()  {}
func (a *blockArgs) winogradOutHalf()  {}
func (a *blockArgs) max()              {}
func (a *blockArgs) mean()             {}
func (a *blockArgs) transpose()        {}
