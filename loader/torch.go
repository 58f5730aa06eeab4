package loader

import (
	"fmt"
	"math"
	"strings"
)

// readTorch reads a PyTorch checkpoint (.pt, .pth, .bin) in its zip form: the
// tensors of the state dict that data.pkl describes.
func readTorch(src *source) ([]*safeTensor, error) {
	entries, err := readZip(src)
	if err != nil {
		return nil, err
	}
	prefix := ""
	for name := range entries {
		if p, ok := strings.CutSuffix(name, "data.pkl"); ok && (p == "" || strings.HasSuffix(p, "/")) {
			if prefix != "" {
				return nil, fault(ErrFormat, name, -1, "second data.pkl", nil, nil)
			}
			prefix = p
		}
	}
	pkl, ok := entries[prefix+"data.pkl"]
	if !ok {
		return nil, fault(ErrUnsupported, "", -1, "zip archive", "a PyTorch checkpoint with data.pkl", nil)
	}
	if pkl.size > maxPickle {
		return nil, fault(ErrLimit, "data.pkl", -1, "size", maxPickle, pkl.size)
	}
	if err := pkl.check(src, "data.pkl"); err != nil {
		return nil, err
	}
	if e, ok := entries[prefix+"byteorder"]; ok && e.size < 64 {
		b, err := src.part(e.off, e.size)
		if err != nil {
			return nil, err
		}
		if strings.TrimSpace(string(b)) != "little" {
			return nil, fault(ErrUnsupported, "byteorder", e.off, "byte order", "little", string(b))
		}
	}
	b, err := src.part(pkl.off, pkl.size)
	if err != nil {
		return nil, err
	}
	v, err := (&pickle{b: b, memo: map[int]any{}}).run()
	if err != nil {
		return nil, err
	}
	return torchTensors(src, stateDict(v), prefix, entries)
}

// stateDict finds the dict of tensors: the object itself, or the entry that
// training scripts put it in.
func stateDict(v any) *pyDict {
	d, _ := v.(*pyDict)
	if d == nil {
		return nil
	}
	for _, key := range []string{"state_dict", "model_state_dict", "model"} {
		if in, ok := d.vals[key].(*pyDict); ok {
			return in
		}
	}
	return d
}

func torchTensors(src *source, d *pyDict, prefix string, entries map[string]zipEntry) ([]*safeTensor, error) {
	var out []*safeTensor
	if d == nil {
		return nil, fault(ErrUnsupported, "data.pkl", -1, "object", "a dict of tensors", nil)
	}
	checked := map[string]bool{}
	for _, name := range d.keys {
		p, ok := d.vals[name].(*pyTensor)
		if !ok {
			continue // epochs, arguments
		}
		e, ok := entries[prefix+"data/"+p.key]
		if !ok {
			return nil, fault(ErrFormat, name, -1, "storage is absent", "data/"+p.key, nil)
		}
		if !checked[p.key] {
			checked[p.key] = true
			if err := e.check(src, name); err != nil {
				return nil, err
			}
		}
		t, err := p.place(src, name, e)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// place finds a tensor's bytes in its storage; only row-major tensors lie in one
// piece.
func (p *pyTensor) place(src *source, name string, e zipEntry) (*safeTensor, error) {
	size := int64(formats[p.t].bytes)
	if p.numel > e.size/size || p.numel*size != e.size {
		return nil, fault(ErrShape, name, e.off, "storage", fmt.Sprint(p.numel, " numbers of ", size, " bytes"), e.size)
	}
	t := &safeTensor{src: src, name: name, t: p.t, shape: make([]int, len(p.shape))}
	n := int64(1)
	for i := len(p.shape) - 1; i >= 0; i-- {
		d := p.shape[i]
		if d > 1 && p.stride[i] != n {
			return nil, fault(ErrUnsupported, name, -1, "strides", "a row-major tensor", fmt.Sprint(p.shape, p.stride))
		}
		if d > math.MaxInt32*64 || (d > 0 && n > p.numel/d) {
			return nil, fault(ErrShape, name, -1, "shape", fmt.Sprint("at most ", p.numel, " numbers"), fmt.Sprint(p.shape))
		}
		t.shape[i] = int(d)
		n *= max(1, d)
	}
	for _, d := range p.shape {
		if d == 0 {
			n = 0
		}
	}
	if p.off > p.numel || n > p.numel-p.off {
		return nil, fault(ErrShape, name, -1, "tensor in its storage", fmt.Sprint("at most ", p.numel), fmt.Sprint(p.off, "+", n))
	}
	t.off, t.size = e.off+p.off*size, n*size
	return t, nil
}
