//go:build !amd64

package cpu

import "testing"

func withoutVBMI2(t *testing.T, _ func()) { t.Skip("only amd64 has it") }
func withoutVBMI(t *testing.T, _ func())  { t.Skip("only amd64 has it") }
