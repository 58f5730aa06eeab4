//go:build !amd64

package cpu

func laneShape() (rows, dense, sparse int) { return 0, 0, 0 }

func (a *convArgs) dense(int)  {}
func (a *convArgs) sparse(int) {}
