package train

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// The IDX format (LeCun, yann.lecun.com/exdb/mnist): two zero bytes, a type byte (8: unsigned
// byte), the number of dimensions, each dimension as a big-endian uint32, the data.

// maxIDX bounds what a header may announce: 1 GiB of bytes.
const maxIDX = 1 << 30

// ReadIDX reads an IDX file of unsigned bytes, plain or gzipped.
func ReadIDX(path string) (dims []int, data []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("train: %w", err)
	}
	defer f.Close()
	if dims, data, err = readIDX(f); err != nil {
		return nil, nil, fmt.Errorf("train: %s: %w", path, err)
	}
	return dims, data, nil
}

func readIDX(f io.Reader) (dims []int, data []byte, err error) {
	var r io.Reader = bufio.NewReader(f)
	if head, _ := r.(*bufio.Reader).Peek(2); len(head) == 2 && head[0] == 0x1f && head[1] == 0x8b {
		if r, err = gzip.NewReader(r); err != nil {
			return nil, nil, fmt.Errorf("%v: %w", err, ErrData)
		}
	}
	var magic [4]byte
	if _, err = io.ReadFull(r, magic[:]); err != nil {
		return nil, nil, fmt.Errorf("IDX header: %v: %w", err, ErrData)
	}
	if magic[0] != 0 || magic[1] != 0 || magic[2] != 8 || magic[3] < 1 || magic[3] > 4 {
		return nil, nil, fmt.Errorf("IDX magic: want 00 00 08 01..04, got % x: %w", magic, ErrData)
	}
	size := 1
	for i := range int(magic[3]) {
		var n uint32
		if err = binary.Read(r, binary.BigEndian, &n); err != nil {
			return nil, nil, fmt.Errorf("IDX dimension %d: %v: %w", i, err, ErrData)
		}
		if n == 0 || int64(n) > maxIDX || int64(size)*int64(n) > maxIDX {
			return nil, nil, fmt.Errorf("IDX dimension %d: want 1..%d bytes in all, got %d: %w", i, maxIDX, n, ErrData)
		}
		size *= int(n)
		dims = append(dims, int(n))
	}
	// Read what is there before believing the header.
	data, err = io.ReadAll(io.LimitReader(r, int64(size)+1))
	if err != nil || len(data) != size {
		return nil, nil, fmt.Errorf("IDX data: want %d bytes, got %d (%v): %w", size, len(data), err, ErrData)
	}
	return dims, data, nil
}

// MNIST holds both parts of the data set, pixels 0..1.
type MNIST struct{ Train, Test *Items }

// OpenMNIST reads the four files of a folder, .gz or plain.
func OpenMNIST(dir string) (*MNIST, error) {
	var m MNIST
	for _, part := range []struct {
		name string
		to   **Items
	}{{"train", &m.Train}, {"t10k", &m.Test}} {
		dims, pixels, err := ReadIDX(present(dir, part.name+"-images-idx3-ubyte"))
		if err != nil {
			return nil, err
		}
		ldims, labels, err := ReadIDX(present(dir, part.name+"-labels-idx1-ubyte"))
		if err != nil {
			return nil, err
		}
		if len(dims) != 3 || len(ldims) != 1 || dims[0] != ldims[0] {
			return nil, fmt.Errorf("train: %s: %s: images %v, labels %v: %w", dir, part.name, dims, ldims, ErrData)
		}
		d := &Items{Width: dims[1] * dims[2], X: make([]float32, len(pixels)), Y: make([]int32, len(labels))}
		for i, p := range pixels {
			d.X[i] = float32(p) / 255
		}
		for i, l := range labels {
			if l > 9 {
				return nil, fmt.Errorf("train: %s: %s label %d: want 0..9, got %d: %w", dir, part.name, i, l, ErrData)
			}
			d.Y[i] = int32(l)
		}
		*part.to = d
	}
	return &m, nil
}

// present is the file with or without .gz, whichever is there.
func present(dir, name string) string {
	gz := filepath.Join(dir, name+".gz")
	if _, err := os.Stat(gz); err == nil {
		return gz
	}
	return filepath.Join(dir, name)
}
