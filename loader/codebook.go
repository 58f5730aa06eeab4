package loader

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"github.com/sparserun/sparserun/codebook"
	"github.com/sparserun/sparserun/model"
)

// A codebook file (package codebook, docs/format.md) is an ONNX message without the weights
// and, behind it, the weights in coded form. They are decoded at once: a file may cost 64 times
// its size and 64 MiB, since 49 times is what Deep Compression itself reaches.

const maxRatio = 64

// initial is an initializer that stands outside the message.
type initial struct {
	name string
	t    *model.Tensor
}

// openCodebook reads a codebook file; src is released before it returns.
func openCodebook(src *source, o *options) (*model.Graph, error) {
	defer src.Close()
	if src.size > math.MaxInt32 {
		return nil, fault(ErrLimit, "", -1, "size of a codebook file", "at most 2 GiB", src.size)
	}
	b := make([]byte, src.size)
	if err := src.readAt(b, 0); err != nil {
		return nil, err
	}
	limit := maxRatio*src.size + 64<<20
	if o.maxMemory > 0 {
		limit = min(limit, o.maxMemory)
	}
	f, err := codebook.Read(b, limit/4)
	if err != nil {
		return nil, codebookError(err, "")
	}
	var weights []initial
	for _, t := range f.Tensors {
		x, err := t.Floats()
		if err != nil {
			return nil, codebookError(err, t.Name)
		}
		weights = append(weights, initial{t.Name, model.F32Tensor(x, t.Shape...)})
	}
	g, err := readONNX(bytes.NewReader(f.Network), src.name, int64(len(f.Network)), nil, o, weights)
	if err != nil {
		return nil, err
	}
	g.Source.Format = "codebook"
	return g, src.unchanged()
}

// codebookError gives an error of package codebook this package's form.
func codebookError(err error, tensor string) error {
	sentinel := ErrFormat
	switch {
	case errors.Is(err, codebook.ErrTruncated):
		sentinel = ErrTruncated
	case errors.Is(err, codebook.ErrLimit):
		sentinel = ErrLimit
	}
	return fault(sentinel, tensor, -1, fmt.Sprintf("%.300s", err.Error()), nil, nil)
}

// code writes a weight outside the message; a vector is not worth a codebook.
func (w *onnxWriter) code(name string, shape []int, f []float32) error {
	if len(shape) < 2 {
		w.coded.Tensors = append(w.coded.Tensors, codebook.Half(name, shape, f))
		return nil
	}
	t, _, err := codebook.Coded(name, shape, f, w.size)
	if err != nil {
		return fault(ErrUnsupported, name, -1, "coding with a codebook", nil, err.Error())
	}
	w.coded.Tensors = append(w.coded.Tensors, t)
	return nil
}
