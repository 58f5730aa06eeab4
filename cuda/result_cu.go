//go:build cuda

package cuda

import (
	"errors"
	"reflect"
)

// resultCode reads the CUresult out of an error of gorgonia.org/cu, whose type is
// an unexported integer.
func resultCode(err error) (int, bool) {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if v := reflect.ValueOf(e); v.CanInt() {
			return int(v.Int()), true
		}
		if c, ok := e.(interface{ Cause() error }); ok { // github.com/pkg/errors
			if v := reflect.ValueOf(c.Cause()); v.CanInt() {
				return int(v.Int()), true
			}
		}
	}
	return 999, false // CUDA_ERROR_UNKNOWN
}
