package dataset

import (
	"archive/zip"
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/sparserun/sparserun/strictjson"
	"github.com/sparserun/sparserun/train"
)

const (
	maxSamples = 1 << 30 // bytes of an array, or of a file of lines
	maxLine    = 1 << 24
)

// Samples reads inputs of any kind, token ids say, with a class each. A .npz holds arrays x [N, ...] and y [N];
// any other file is JSON lines: {"x": [101, 7592, 102], "y": 1}, where x may be nested and is of one size
// throughout. A sample becomes a row in row-major order.
func Samples(path string) (*train.Items, error) {
	d, err := samples(path)
	if err != nil {
		return nil, fmt.Errorf("dataset: %s: %w", path, err)
	}
	if d.Len() == 0 || d.Width == 0 {
		return nil, fmt.Errorf("dataset: %s: want samples, got none: %w", path, ErrData)
	}
	return d, nil
}

func samples(path string) (*train.Items, error) {
	if strings.EqualFold(filepath.Ext(path), ".npz") {
		return arrays(path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() > maxSamples {
		if err == nil {
			err = fmt.Errorf("want at most %d bytes, got %d: %w", maxSamples, st.Size(), ErrData)
		}
		return nil, err
	}
	return lines(io.LimitReader(f, maxSamples))
}

// arrays reads x and y of a .npz, which is a zip of .npy files.
func arrays(path string) (*train.Items, error) {
	z, err := zip.OpenReader(path)
	switch {
	case errors.Is(err, zip.ErrFormat):
		return nil, fmt.Errorf("npz: %w: %w", err, ErrData)
	case err != nil:
		return nil, err
	}
	defer z.Close()
	array := func(name string) ([]float32, []int, error) {
		f, err := z.Open(name + ".npy")
		if err != nil {
			return nil, nil, fmt.Errorf("npz: want arrays x and y: %w: %w", err, ErrData)
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxSamples+1))
		switch {
		case err != nil:
			return nil, nil, fmt.Errorf("npz: array %s: %w: %w", name, err, ErrData)
		case len(b) > maxSamples:
			return nil, nil, fmt.Errorf("npz: array %s: want at most %d bytes: %w", name, maxSamples, ErrData)
		}
		x, shape, err := NPY(b)
		if err != nil {
			return nil, nil, fmt.Errorf("array %s: %w", name, err)
		}
		return x, shape, nil
	}
	x, xs, err := array("x")
	if err != nil {
		return nil, err
	}
	y, ys, err := array("y")
	if err != nil {
		return nil, err
	}
	if len(xs) < 2 || len(ys) != 1 || xs[0] != ys[0] {
		return nil, fmt.Errorf("npz: want x of [N, ...] and y of [N], got %v and %v: %w", xs, ys, ErrData)
	}
	d := &train.Items{Width: len(x) / max(1, xs[0]), X: x, Y: make([]int32, len(y))}
	for i, v := range y {
		if v < 0 || v > math.MaxInt16 || v != float32(int32(v)) {
			return nil, fmt.Errorf("npz: y[%d]: want a class of 0..%d, got %g: %w", i, math.MaxInt16, v, ErrData)
		}
		d.Y[i] = int32(v)
	}
	return d, nil
}

// lines reads JSON lines; empty ones are passed over.
func lines(r io.Reader) (*train.Items, error) {
	d := &train.Items{}
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	n := 0
	for s.Scan() {
		n++
		if strings.TrimSpace(s.Text()) == "" {
			continue
		}
		if err := line(s.Text(), d); err != nil {
			return nil, fmt.Errorf("line %d: %w: %w", n, err, ErrData)
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w: %w", n+1, err, ErrData)
	}
	return d, nil
}

// line appends one sample.
func line(text string, d *train.Items) error {
	r, err := strictjson.New(text, strictjson.Options{})
	if err != nil {
		return err
	}
	was, class := len(d.X), -1
	err = r.Object(func(key string) (err error) {
		switch key {
		case "x":
			d.X, err = numbers(r, d.X)
		case "y":
			if class, err = r.Uint(); class > math.MaxInt16 {
				return fmt.Errorf("y: want a class of 0..%d, got %d", math.MaxInt16, class)
			}
		default:
			return fmt.Errorf("want x and y, got %.40q", key)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := r.End(); err != nil {
		return err
	}
	width := len(d.X) - was
	if d.Width == 0 {
		d.Width = width
	}
	if class < 0 || width == 0 || width != d.Width {
		return fmt.Errorf("want %d numbers x and a class y, got %d and %d", max(1, d.Width), width, class)
	}
	d.Y = append(d.Y, int32(class))
	return nil
}

// numbers appends the numbers of a nested array.
func numbers(r *strictjson.Reader, x []float32) ([]float32, error) {
	if r.Peek() != '[' {
		v, err := r.Float()
		return append(x, float32(v)), err
	}
	err := r.Array(func(int) (err error) {
		x, err = numbers(r, x)
		return err
	})
	return x, err
}
