// Package dataset reads labelled images - MNIST's idx files, CIFAR-10's binary
// records, folders of photographs - and measures a network's accuracy on them. Samples of
// any kind, token ids say, come from .npz files and JSON lines.
package dataset

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/sparserun/sparserun/train"
)

// ErrData: a file does not hold what its format promises.
var ErrData = errors.New("malformed data set")

// Images are labelled images; Read gives image i as planes [C, H, W] of 0..255.
type Images struct {
	Name    string
	C, H, W int
	Labels  []int
	Read    func(i int, dst []float32) error
}

// Len is the number of images.
func (d *Images) Len() int { return len(d.Labels) }

// Size is the number of values of an image.
func (d *Images) Size() int { return d.C * d.H * d.W }

// First keeps the first n images.
func (d *Images) First(n int) *Images {
	e := *d
	e.Labels = d.Labels[:min(n, len(d.Labels))]
	return &e
}

// MNIST reads the test part of a folder with MNIST's four idx files, .gz or plain.
func MNIST(dir string) (*Images, error) { return mnist(dir, "t10k", "MNIST test") }

// MNISTTraining reads the part to train on.
func MNISTTraining(dir string) (*Images, error) { return mnist(dir, "train", "MNIST training") }

func mnist(dir, part, title string) (*Images, error) {
	file := func(name string) string {
		if p := filepath.Join(dir, name+".gz"); exists(p) {
			return p
		}
		return filepath.Join(dir, name)
	}
	dims, pixels, err := train.ReadIDX(file(part + "-images-idx3-ubyte"))
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	ldims, labels, err := train.ReadIDX(file(part + "-labels-idx1-ubyte"))
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	if len(dims) != 3 || len(ldims) != 1 || dims[0] != ldims[0] {
		return nil, fmt.Errorf("dataset: %s: images %v, labels %v: %w", dir, dims, ldims, ErrData)
	}
	return bytesOf(title, 1, dims[1], dims[2], labels, 1, 0, pixels, dims[1]*dims[2], 0), nil
}

func exists(p string) bool { _, err := os.Stat(p); return err == nil }

// bytesOf are images in one array: label i at labels[i*ls+lo], pixels at
// pixels[i*ps+po:].
func bytesOf(name string, c, h, w int, labels []byte, ls, lo int, pixels []byte, ps, po int) *Images {
	d := &Images{Name: name, C: c, H: h, W: w, Labels: make([]int, len(labels)/ls)}
	for i := range d.Labels {
		d.Labels[i] = int(labels[i*ls+lo])
	}
	n := c * h * w
	d.Read = func(i int, dst []float32) error {
		for k, v := range pixels[i*ps+po : i*ps+po+n] {
			dst[k] = float32(v)
		}
		return nil
	}
	return d
}

const (
	cifarRecord = 1 + 3*32*32
	maxCIFAR    = 1 << 20 // records
)

// CIFAR reads CIFAR-10's binary form: records of a label byte and 3072 bytes, red,
// green and blue planes of 32x32; plain or gzipped.
func CIFAR(path string) (*Images, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	defer f.Close()
	br := bufio.NewReader(f)
	var r io.Reader = br
	if head, _ := br.Peek(2); len(head) == 2 && head[0] == 0x1f && head[1] == 0x8b {
		if r, err = gzip.NewReader(br); err != nil {
			return nil, fmt.Errorf("dataset: %s: %v: %w", path, err, ErrData)
		}
	}
	b, err := io.ReadAll(io.LimitReader(r, maxCIFAR*cifarRecord+1))
	if err != nil {
		return nil, fmt.Errorf("dataset: %s: %v: %w", path, err, ErrData)
	}
	if len(b) == 0 || len(b)%cifarRecord != 0 || len(b) > maxCIFAR*cifarRecord {
		return nil, fmt.Errorf("dataset: %s: want records of %d bytes, at most %d, got %d bytes: %w", path, cifarRecord, maxCIFAR, len(b), ErrData)
	}
	d := bytesOf("CIFAR-10", 3, 32, 32, b, cifarRecord, 0, b, cifarRecord, 1)
	for i, l := range d.Labels {
		if l > 9 {
			return nil, fmt.Errorf("dataset: %s: record %d: want a label of 0..9, got %d: %w", path, i, l, ErrData)
		}
	}
	return d, nil
}
