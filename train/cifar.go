package train

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"os"
)

// cifarRecord is a label and 3 x 32 x 32 pixels, planar (Krizhevsky 2009, binary version).
const cifarRecord = 1 + 3*32*32

// OpenCIFAR10 reads records of CIFAR-10's binary form, plain or gzipped; pixels are (x/255 - mean) /
// std by channel, with ImageNet's mean and std as the usual ResNets for it have them.
func OpenCIFAR10(path string) (*Items, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	defer f.Close()
	d, err := readCIFAR10(f)
	if err != nil {
		return nil, fmt.Errorf("train: %s: %w", path, err)
	}
	return d, nil
}

func readCIFAR10(f io.Reader) (*Items, error) {
	r := bufio.NewReader(f)
	var in io.Reader = r
	if head, _ := r.Peek(2); len(head) == 2 && head[0] == 0x1f && head[1] == 0x8b {
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", err, ErrData)
		}
		in = z
	}
	data, err := io.ReadAll(io.LimitReader(in, maxIDX+1))
	if err != nil || len(data) == 0 || len(data) > maxIDX || len(data)%cifarRecord != 0 {
		return nil, fmt.Errorf("CIFAR-10: want records of %d bytes, at most %d, got %d (%v): %w", cifarRecord, maxIDX, len(data), err, ErrData)
	}
	mean, std := [3]float32{0.485, 0.456, 0.406}, [3]float32{0.229, 0.224, 0.225}
	n := len(data) / cifarRecord
	d := &Items{Width: cifarRecord - 1, X: make([]float32, n*(cifarRecord-1)), Y: make([]int32, n)}
	for i := range n {
		rec := data[i*cifarRecord : (i+1)*cifarRecord]
		if rec[0] > 9 {
			return nil, fmt.Errorf("CIFAR-10: record %d: label: want 0..9, got %d: %w", i, rec[0], ErrData)
		}
		d.Y[i] = int32(rec[0])
		for j, p := range rec[1:] {
			c := j / 1024
			d.X[i*d.Width+j] = (float32(p)/255 - mean[c]) / std[c]
		}
	}
	return d, nil
}
