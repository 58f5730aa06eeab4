package loader

import (
	"bytes"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sparserun/sparserun/model"
)

// ReadTensorProto decodes a serialised ONNX TensorProto (the .pb files beside a
// model's tests).
func ReadTensorProto(b []byte) (*model.Tensor, error) {
	d := protoReader(b)
	p, err := d.tensor(wire{d.f, 0, d.f.size})
	if err != nil {
		return nil, err
	}
	return d.decode(p)
}

// ReadSequenceProto decodes a serialised ONNX SequenceProto of tensors.
func ReadSequenceProto(b []byte) (*model.Tensor, error) {
	d := protoReader(b)
	return d.sequence(wire{d.f, 0, d.f.size})
}

// ReadOptionalProto decodes a serialised ONNX OptionalProto of a tensor or a
// sequence; nil where it holds none.
func ReadOptionalProto(b []byte) (*model.Tensor, error) {
	d := protoReader(b)
	var t *model.Tensor
	err := wire{d.f, 0, d.f.size}.each(func(x field) error {
		if x.num != 3 && x.num != 5 {
			return nil
		}
		err := x.want(protowire.BytesType)
		if err != nil {
			return err
		}
		if x.num == 5 {
			t, err = d.sequence(x.body)
			return err
		}
		p, err := d.tensor(x.body)
		if err != nil {
			return err
		}
		t, err = d.decode(p)
		return err
	})
	return t, err
}

func protoReader(b []byte) *onnx {
	n := int64(len(b))
	return &onnx{f: &onnxFile{src: bytes.NewReader(b), size: n, left: 8*n + 64<<20}, o: &options{}}
}

func (d *onnx) sequence(w wire) (*model.Tensor, error) {
	seq := &model.Tensor{Seq: true}
	err := w.each(func(x field) error {
		switch x.num {
		case 3:
			if err := x.want(protowire.BytesType); err != nil {
				return err
			}
			p, err := d.tensor(x.body)
			if err != nil {
				return err
			}
			t, err := d.decode(p)
			if err != nil {
				return err
			}
			seq.Items = append(seq.Items, t)
		case 4, 5, 6, 7:
			return fault(ErrUnsupported, "", x.at, "sequence", "tensors", x.num)
		}
		return nil
	})
	return seq, err
}
