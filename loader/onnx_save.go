package loader

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sparserun/sparserun/codebook"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tensorop"
)

// onnxWriter builds the message of a tensor graph. Weights keep their types;
// sparse ones become sparse initializers where that is smaller, int8 ones int8
// with a DequantizeLinear in front of their reader.
type onnxWriter struct {
	g      *model.Graph
	ctx    context.Context
	dense  bool // FormatDense: no sparse initializers
	nodes  []byte
	inits  []byte
	infos  []byte          // shapes that do not follow from the nodes
	consts map[string]bool // initializers that are constants
	done   map[string]bool // and those that are weights: whether turned
	fresh  int
	coded  *codebook.File // FormatCodebook: where matrices go instead
	size   int            // of a codebook
}

// saveONNX writes a tensor graph as an ONNX file.
func saveONNX(ctx context.Context, g *model.Graph, path string, opts SaveOptions) error {
	w := &onnxWriter{g: g, ctx: ctx, dense: opts.Format == FormatDense, done: map[string]bool{}, consts: map[string]bool{}}
	if opts.Format == FormatCodebook {
		w.coded, w.size = &codebook.File{}, opts.Codebook
		if w.size == 0 {
			w.size = codebook.MaxEntries
		}
	}
	if err := w.graph(); err != nil {
		return inFile(err, path)
	}
	b := w.message(opts.Meta)
	if w.coded != nil {
		w.coded.Network = b
		b = w.coded.Append(nil)
	}
	return atomically(opts.fs, path, func(out io.Writer) error {
		for i := 0; i < len(b); i += 1 << 20 {
			if err := ctx.Err(); err != nil {
				return err
			}
			if _, err := out.Write(b[i:min(len(b), i+1<<20)]); err != nil {
				return err
			}
			if opts.Progress != nil {
				opts.Progress(int64(min(len(b), i+1<<20)), int64(len(b)))
			}
		}
		return nil
	})
}

func putInt(b []byte, num protowire.Number, v int64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), uint64(v))
}

func putBytes(b []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

func putString(b []byte, num protowire.Number, v string) []byte {
	return putBytes(b, num, []byte(v))
}

func putDims(b []byte, num protowire.Number, dims []int) []byte {
	for _, d := range dims {
		b = putInt(b, num, int64(d))
	}
	return b
}

func putPair(b []byte, num protowire.Number, k, v string) []byte {
	return putBytes(b, num, putString(putString(nil, 1, k), 2, v))
}

func (w *onnxWriter) message(meta map[string]string) []byte {
	ir := int64(8)
	switch v := w.g.Opsets[""]; {
	case v >= 23:
		ir = 11
	case v >= 21:
		ir = 10
	}
	b := putInt(nil, 1, ir)
	b = putString(b, 2, "sparserun")
	graph := putString(slices.Clone(w.nodes), 2, w.g.Name)
	graph = append(graph, w.inits...)
	for _, v := range w.g.Inputs {
		graph = putBytes(graph, 11, w.info(v, true))
	}
	for _, v := range w.g.Outputs {
		graph = putBytes(graph, 12, w.info(v, true))
	}
	graph = append(graph, w.infos...)
	b = putBytes(b, 7, graph)
	for _, domain := range slices.Sorted(maps.Keys(w.g.Opsets)) {
		b = putBytes(b, 8, putInt(putString(nil, 1, domain), 2, int64(w.g.Opsets[domain])))
	}
	all := maps.Clone(w.g.Source.Meta)
	if all == nil {
		all = map[string]string{}
	}
	for _, k := range []string{"producer_name", "producer_version", "domain"} {
		delete(all, k)
	}
	maps.Copy(all, meta)
	for _, k := range slices.Sorted(maps.Keys(all)) {
		b = putPair(b, 14, k, all[k])
	}
	return b
}

// declare keeps what the file said of the shapes of a node's outputs and reading it again would not find out:
// of a Reshape to a shape that is computed, say.
func (w *onnxWriter) declare(n *model.Node) {
	if n.Weight != nil {
		return
	}
	in, consts := make([]tensorop.Kind, len(n.In)), make([]*model.Tensor, len(n.In))
	for i, v := range n.In {
		if v != model.NoValue {
			in[i], consts[i] = tensorop.Kind{Elem: w.g.Values[v].Elem, Shape: w.g.Values[v].Shape}, w.g.Constants[v]
		}
	}
	found := tensorop.Infer(n, in, consts)
	for i, v := range n.Outs {
		if v == model.NoValue || w.g.Values[v].Shape == nil || slices.Contains(w.g.Outputs, v) ||
			i < len(found) && slices.Equal(found[i].Shape, w.g.Values[v].Shape) {
			continue
		}
		w.infos = putBytes(w.infos, 13, w.info(v, false))
	}
}

// info is a ValueInfoProto; a free dimension gets a name, if asked for: equal names mean equal sizes.
func (w *onnxWriter) info(id model.ValueID, names bool) []byte {
	v := w.g.Values[id]
	b := putString(nil, 1, v.Name)
	if v.Elem == model.ElemNone {
		return b
	}
	t := putInt(nil, 1, int64(v.Elem))
	if v.Shape != nil {
		var shape []byte
		for i, d := range v.Shape {
			switch {
			case d >= 0:
				shape = putBytes(shape, 1, putInt(nil, 1, int64(d)))
			case !names:
				shape = putBytes(shape, 1, nil)
			default:
				shape = putBytes(shape, 1, putString(nil, 2, []string{"N", fmt.Sprint("d", i)}[min(i, 1)]))
			}
		}
		t = putBytes(t, 2, shape)
	}
	return putBytes(b, 2, putBytes(nil, 1, t))
}

func (w *onnxWriter) name(v model.ValueID) string {
	if v == model.NoValue {
		return ""
	}
	return w.g.Values[v].Name
}

func (w *onnxWriter) graph() error {
	for _, v := range slices.Sorted(maps.Keys(w.g.Constants)) {
		t, err := tensorBytes(w.name(v), w.g.Constants[v])
		if err != nil {
			return err
		}
		w.inits = putBytes(w.inits, 5, t)
		w.consts[w.name(v)] = true
	}
	for _, n := range w.g.Nodes {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := w.node(n); err != nil {
			return err
		}
		w.declare(n)
	}
	return nil
}

// emit appends a node.
func (w *onnxWriter) emit(op, name string, in, out []string, attrs map[string]model.Attribute, domain string) error {
	var b []byte
	for _, s := range in {
		b = putString(b, 1, s)
	}
	for _, s := range out {
		b = putString(b, 2, s)
	}
	b = putString(putString(b, 3, name), 4, op)
	for _, k := range slices.Sorted(maps.Keys(attrs)) {
		a, err := attrBytes(k, attrs[k])
		if err != nil {
			return err
		}
		b = putBytes(b, 5, a)
	}
	if domain != "" {
		b = putString(b, 7, domain)
	}
	w.nodes = putBytes(w.nodes, 1, b)
	return nil
}

func (w *onnxWriter) node(n *model.Node) error {
	op := n.Attr.(*model.TensorOp)
	var in, out []string
	for _, v := range n.In {
		in = append(in, w.name(v))
	}
	for _, v := range n.Outs {
		out = append(out, w.name(v))
	}
	if n.Weight == nil {
		return w.emit(string(n.Op), n.Name, in, out, op.Attrs, op.Domain)
	}
	shape := w.g.Values[n.In[0]].Shape
	flat := len(shape) == 2 || shape == nil && n.Bias != nil // which was a Gemm's: nothing else has one here
	turned := n.Op == model.OpLinear && !flat
	weight, err := w.weight(n.Weight, w.elemOf(n), turned)
	if err != nil {
		return err
	}
	bias := ""
	if n.Bias != nil {
		if bias, err = w.weight(n.Bias, w.elemOf(n), false); err != nil {
			return err
		}
	}
	switch {
	case n.Op == model.OpConv:
		in = append(in, weight)
		if bias != "" {
			in = append(in, bias)
		}
		return w.emit("Conv", n.Name, in, out, op.Attrs, "")
	case flat:
		in = append(in, weight)
		if bias != "" {
			in = append(in, bias)
		} else if op.Version < 11 {
			// C was not optional yet.
			rows, _ := n.Weight.Data.Dims()
			in = append(in, w.zeros(n, rows))
		}
		attrs := map[string]model.Attribute{"transB": {Kind: model.AttrInt, I: 1}}
		if op.Version < 7 {
			attrs["broadcast"] = model.Attribute{Kind: model.AttrInt, I: 1}
		}
		return w.emit("Gemm", n.Name, in, out, attrs, "")
	case bias == "":
		return w.emit("MatMul", n.Name, append(in, weight), out, nil, "")
	}
	w.fresh++
	mid := fmt.Sprintf("%s_product_%d", out[0], w.fresh)
	if err := w.emit("MatMul", n.Name, append(in, weight), []string{mid}, nil, ""); err != nil {
		return err
	}
	return w.emit("Add", n.Name+"_bias", []string{mid, bias}, out, nil, "")
}

// elemOf is the type that a node's parameters must have: that of what it
// multiplies, whatever form pruning stores them in.
func (w *onnxWriter) elemOf(n *model.Node) model.Elem {
	switch e := w.g.Values[n.In[0]].Elem; {
	case e == model.ElemF16 || e == model.ElemBF16:
		return e
	case e == model.ElemNone && n.Bias != nil && n.Bias.Data.DType() == sparse.F16:
		return model.ElemF16
	}
	return model.ElemF32
}

func (w *onnxWriter) zeros(n *model.Node, rows int) string {
	w.fresh++
	name := fmt.Sprintf("%s_zero_%d", n.Weight.Name, w.fresh)
	t := floatTensor(name, w.elemOf(n), []int{rows}, make([]float32, rows))
	w.inits = putBytes(w.inits, 5, t)
	return name
}

// weight writes an initializer once and returns the name that reads it; turned
// stores [in, out] for MatMul.
func (w *onnxWriter) weight(x *model.Weight, elem model.Elem, turned bool) (string, error) {
	name := x.Name
	if was, ok := w.done[name]; ok && was != turned { // another node reads it the other way round
		name += map[bool]string{true: ".turned", false: ".straight"}[turned]
	}
	if w.consts[name] { // another op reads the same numbers as they were
		name += ".matrix"
	}
	if _, ok := w.done[name]; ok {
		return name, nil
	}
	w.done[name] = turned
	rows, cols := x.Data.Dims()
	shape := x.Shape
	if turned {
		shape = []int{cols, rows}
	}
	f, err := sparse.Read(x.Data)
	if err != nil {
		return "", named(err, x.Name)
	}
	if turned {
		f = maybeTransposed(f, rows, cols, true)
	}
	if w.coded != nil && elem == model.ElemF32 {
		return name, w.code(name, shape, f)
	}
	if q, ok := int8Rows(x.Data); ok && !turned && elem == model.ElemF32 && w.g.Opsets[""] >= 13 {
		return name, w.int8(name, shape, q)
	}
	nnz := 0
	for _, v := range f {
		if v != 0 {
			nnz++
		}
	}
	if l := x.Data.Layout(); !w.dense && (l == sparse.LayoutCSR || l == sparse.LayoutBitmask) && w.g.Opsets[""] >= 11 && nnz*(elem.Size()+8) < len(f)*elem.Size() {
		idx, vals := make([]byte, 0, 8*nnz), make([]float32, 0, nnz)
		for i, v := range f {
			if v != 0 {
				idx, vals = binary.LittleEndian.AppendUint64(idx, uint64(i)), append(vals, v)
			}
		}
		b := putBytes(nil, 1, floatTensor(name, elem, []int{nnz}, vals))
		b = putBytes(b, 2, putBytes(putInt(putDims(nil, 1, []int{nnz}), 2, int64(model.ElemI64)), 9, idx))
		w.inits = putBytes(w.inits, 15, putDims(b, 3, shape))
		return name, nil
	}
	w.inits = putBytes(w.inits, 5, floatTensor(name, elem, shape, f))
	return name, nil
}

// int8Rows is a dense int8 matrix with one scale a row and no zero points.
func int8Rows(m sparse.Matrix) (*sparse.Dense, bool) {
	d, ok := m.(*sparse.Dense)
	return d, ok && d.Values.Type == sparse.Int8 && d.Quant != nil && d.Quant.Group == 0 && len(d.Quant.Scales) == d.R && d.Quant.Zeros == nil
}

func (w *onnxWriter) int8(name string, shape []int, d *sparse.Dense) error {
	b := putDims(nil, 1, shape)
	b = putString(putInt(b, 2, int64(model.ElemI8)), 8, name+".int8")
	w.inits = putBytes(w.inits, 5, putBytes(b, 9, d.Values.Q))
	w.inits = putBytes(w.inits, 5, floatTensor(name+".scale", model.ElemF32, []int{d.R}, d.Quant.Scales))
	return w.emit("DequantizeLinear", name+".dequantize", []string{name + ".int8", name + ".scale"}, []string{name},
		map[string]model.Attribute{"axis": {Kind: model.AttrInt, I: 0}}, "")
}

func floatTensor(name string, e model.Elem, shape []int, f []float32) []byte {
	raw := make([]byte, 0, len(f)*e.Size())
	for _, v := range f {
		switch e {
		case model.ElemF16:
			raw = binary.LittleEndian.AppendUint16(raw, sparse.F32ToF16(v))
		case model.ElemBF16:
			raw = binary.LittleEndian.AppendUint16(raw, sparse.F32ToBF16(v))
		default:
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
		}
	}
	return putBytes(putString(putInt(putDims(nil, 1, shape), 2, int64(e)), 8, name), 9, raw)
}

// tensorBytes is a TensorProto.
func tensorBytes(name string, t *model.Tensor) ([]byte, error) {
	if t == nil || t.Seq {
		return nil, fault(ErrUnsupported, name, -1, "saving a sequence", nil, nil)
	}
	b := putInt(putDims(nil, 1, t.Shape), 2, int64(t.Elem))
	if name != "" {
		b = putString(b, 8, name)
	}
	if s, ok := t.Data.([]string); ok {
		for _, v := range s {
			b = putString(b, 6, v)
		}
		return b, nil
	}
	if bits := t.Elem.Bits(); bits < 8 { // several in a byte, the first lowest
		per := 8 / bits
		raw := make([]byte, (t.Len()+per-1)/per)
		for i := range t.Len() {
			var v byte
			switch d := t.Data.(type) {
			case []int8:
				v = byte(d[i])
			case []uint8:
				v = d[i]
			}
			raw[i/per] |= v & (1<<bits - 1) << (bits * (i % per))
		}
		return putBytes(b, 9, raw), nil
	}
	raw, err := binary.Append(nil, binary.LittleEndian, t.Data)
	if err != nil {
		return nil, fault(ErrUnsupported, name, -1, "saving a tensor", nil, t.Elem)
	}
	return putBytes(b, 9, raw), nil
}

func attrBytes(name string, a model.Attribute) ([]byte, error) {
	b := putInt(putString(nil, 1, name), 20, int64(a.Kind))
	f32 := func(num protowire.Number, v float32) {
		b = protowire.AppendFixed32(protowire.AppendTag(b, num, protowire.Fixed32Type), math.Float32bits(v))
	}
	switch a.Kind {
	case model.AttrFloat:
		f32(2, a.F)
	case model.AttrInt:
		b = putInt(b, 3, a.I)
	case model.AttrString:
		b = putString(b, 4, a.S)
	case model.AttrTensor:
		t, err := tensorBytes("", a.T)
		if err != nil {
			return nil, err
		}
		b = putBytes(b, 5, t)
	case model.AttrFloats:
		for _, v := range a.Floats {
			f32(7, v)
		}
	case model.AttrInts:
		for _, v := range a.Ints {
			b = putInt(b, 8, v)
		}
	case model.AttrStrings:
		for _, v := range a.Strings {
			b = putString(b, 9, v)
		}
	default:
		return nil, fault(ErrUnsupported, name, -1, "saving an attribute", "numbers, strings or a tensor", a.Kind)
	}
	return b, nil
}
