//go:build !unix

package loader

import (
	"errors"
	"io/fs"
	"os"
)

const nonblock = 0

func mapFile(*os.File, int64) ([]byte, error) {
	return nil, errors.New("memory mapping is not built for this system")
}

func unmap([]byte) error { return nil }

func alive(int) bool { return true }

func links(fs.FileInfo) int { return 1 }
