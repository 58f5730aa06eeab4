package loader

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/tensorop"
)

// ONNX: one protobuf message (onnx.proto, IR versions 3 to 14), read by hand with
// protowire: no descriptors, no generated code, no copy of the file in memory.
// What a model costs while it is opened is bounded by twice its files and 64 MiB.

const (
	minOpset = 6 // below, attributes that became inputs have other rules
	maxOpset = 26
	maxIR    = 20
)

// onnx is an ONNX model while it is read.
type onnx struct {
	f     *onnxFile
	o     *options
	root  *os.Root // for external data; nil: there can be none
	files map[string]*source

	g       *model.Graph
	ids     map[string]model.ValueID
	sparse  map[model.ValueID]*sparseProto
	origin  map[model.ValueID]string // "initializer", "input", the node that writes it
	nodes   []*onnxNode
	outputs []string
}

type onnxNode struct {
	n   *model.Node
	op  *model.TensorOp
	in  []string
	out []string
	at  int64
}

// looksONNX: an ONNX file has no magic; its first field is one of a ModelProto,
// the version of the format nearly always.
func looksONNX(head []byte) bool {
	switch head[0] {
	case 0x08: // ir_version
		return head[1] > 0 && head[1] <= maxIR || head[1] >= 0x80
	case 0x12, 0x1a, 0x22, 0x32, 0x3a, 0x42, 0x72: // strings, graph, opset_import, metadata
		return true
	}
	return false
}

// openONNX reads an ONNX file; src is released before it returns.
func openONNX(src *source, path string, o *options) (*model.Graph, error) {
	defer src.Close()
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, osError(path, err)
	}
	defer root.Close()
	g, err := readONNX(src.f, src.name, src.size, root, o, nil)
	if err != nil {
		return nil, err
	}
	return g, src.unchanged()
}

// readONNX reads a ModelProto of size bytes; more are initializers that stand elsewhere.
func readONNX(r io.ReaderAt, name string, size int64, root *os.Root, o *options, more []initial) (g *model.Graph, err error) {
	d := &onnx{f: &onnxFile{src: r, name: name, size: size, left: 2*size + 64<<20}, o: o, root: root, files: map[string]*source{},
		ids: map[string]model.ValueID{}, sparse: map[model.ValueID]*sparseProto{}, origin: map[model.ValueID]string{}}
	defer func() {
		for _, s := range d.files {
			s.Close()
		}
	}()
	d.g = &model.Graph{Arch: "onnx", Opsets: map[string]int{}, Constants: map[model.ValueID]*model.Tensor{}, Source: model.Source{Format: "onnx", Meta: map[string]string{}}}
	if o.maxMemory > 0 {
		d.f.left = min(d.f.left, o.maxMemory)
	}
	for _, x := range more {
		id, err := d.write(x.name, "initializer", -1)
		if err != nil {
			return nil, err
		}
		d.f.left += int64(x.t.Len()) * int64(x.t.Elem.Size()) // a Linear may be turned round
		d.constant(id, x.t)
	}
	if err := d.model(wire{d.f, 0, size}); err != nil {
		return nil, err
	}
	if err := d.resolve(); err != nil {
		return nil, err
	}
	tensorop.Fold(d.g, func(bytes int64) bool { return d.f.spend(bytes, "", -1) == nil })
	if err := d.weights(); err != nil {
		return nil, err
	}
	d.drop()
	if err := d.g.Check(); err != nil {
		return nil, fault(ErrGraph, "", -1, "graph", nil, err.Error())
	}
	return d.g, nil
}

func (d *onnx) model(w wire) error {
	var graph *wire
	var ir int64
	err := w.each(func(x field) (err error) {
		switch x.num {
		case 1:
			if ir, err = x.integer(); err == nil && (ir < 1 || ir > maxIR) {
				err = fault(ErrUnsupported, "", x.at, "IR version", fmt.Sprint("1 to ", maxIR), ir)
			}
		case 2, 3, 4:
			key := map[protowire.Number]string{2: "producer_name", 3: "producer_version", 4: "domain"}[x.num]
			var s string
			if s, err = x.str(); s != "" {
				d.g.Source.Meta[key] = s
			}
		case 7:
			if err = x.want(protowire.BytesType); err != nil {
				return err
			}
			if graph != nil {
				return fault(ErrFormat, "", x.at, "graph occurs twice", nil, nil)
			}
			graph = &x.body
		case 8:
			return d.opset(x)
		case 14:
			k, v, err := stringPair(x)
			if err != nil {
				return err
			}
			d.g.Source.Meta[k] = v
		case 25:
			return fault(ErrUnsupported, "", x.at, "functions in a model", "ops", nil)
		}
		return err
	})
	if err != nil {
		return err
	}
	if graph == nil {
		return fault(ErrFormat, "", 0, "ONNX model", "a graph", "none")
	}
	if len(d.g.Opsets) == 0 {
		if ir >= 3 || ir == 0 {
			return fault(ErrUnsupported, "", 0, "opset", fmt.Sprintf("%d to %d", minOpset, maxOpset), "none")
		}
		d.g.Opsets[""] = 1
	}
	if v, ok := d.g.Opsets[""]; ok && (v < minOpset || v > maxOpset) {
		return fault(ErrUnsupported, "", 0, "opset", fmt.Sprintf("%d to %d", minOpset, maxOpset), v)
	}
	return d.graph(*graph)
}

func (d *onnx) opset(x field) error {
	if err := x.want(protowire.BytesType); err != nil {
		return err
	}
	domain, version := "", int64(0)
	err := x.body.each(func(y field) (err error) {
		switch y.num {
		case 1:
			domain, err = y.str()
		case 2:
			version, err = y.integer()
		}
		return err
	})
	if err != nil {
		return err
	}
	if domain == "ai.onnx" {
		domain = ""
	}
	if version < 0 || version > 1<<20 {
		return fault(ErrUnsupported, "", x.at, fmt.Sprintf("opset of %.80q", domain), "a version", version)
	}
	if _, ok := d.g.Opsets[domain]; ok {
		return fault(ErrFormat, "", x.at, "opset imported twice", nil, domain)
	}
	d.g.Opsets[domain] = int(version)
	return nil
}

// value is the id of a name, made where it is new.
func (d *onnx) value(name string) model.ValueID {
	if name == "" {
		return model.NoValue
	}
	if id, ok := d.ids[name]; ok {
		return id
	}
	d.g.Values = append(d.g.Values, model.Value{Name: name})
	id := model.ValueID(len(d.g.Values) - 1)
	d.ids[name] = id
	return id
}

// write records who writes a value: a second one is an error.
func (d *onnx) write(name, by string, at int64) (model.ValueID, error) {
	if name == "" {
		return 0, fault(ErrGraph, "", at, by+" without a name", nil, nil)
	}
	id := d.value(name)
	if was, ok := d.origin[id]; ok {
		return 0, fault(ErrGraph, name, at, "value is written twice", nil, was+" and "+by)
	}
	d.origin[id] = by
	return id, nil
}

func (d *onnx) graph(w wire) error {
	var inputs []field
	count := 0
	err := w.each(func(x field) (err error) {
		if count++; count > maxItems {
			return fault(ErrLimit, "", x.at, "items of a graph", fmt.Sprint("at most ", maxItems), "more")
		}
		if x.num != 2 && x.num != 10 {
			if err := x.want(protowire.BytesType); err != nil {
				return err
			}
		}
		switch x.num {
		case 1:
			return d.node(x)
		case 2:
			d.g.Name, err = x.str()
		case 5:
			return d.initializer(x)
		case 11:
			inputs = append(inputs, x)
		case 12:
			name, err := d.valueInfo(x)
			if err != nil {
				return err
			}
			d.outputs = append(d.outputs, name)
		case 13:
			_, err = d.valueInfo(x)
		case 15:
			return d.sparseInitializer(x)
		}
		return err
	})
	if err != nil {
		return err
	}
	// Before IR 4 initializers were inputs too; what has a value in the file is no
	// input here.
	seen := map[string]bool{}
	for _, x := range inputs {
		name, err := d.valueInfo(x)
		if err != nil {
			return err
		}
		if seen[name] {
			return fault(ErrGraph, name, x.at, "input occurs twice", nil, nil)
		}
		seen[name] = true
		if d.origin[d.value(name)] == "initializer" {
			continue
		}
		id, err := d.write(name, "input", x.at)
		if err != nil {
			return err
		}
		d.g.Inputs = append(d.g.Inputs, id)
	}
	return nil
}

func (d *onnx) initializer(x field) error {
	p, err := d.tensor(x.body)
	if err != nil {
		return err
	}
	id, err := d.write(p.name, "initializer", x.at)
	if err != nil {
		return err
	}
	t, err := d.decode(p)
	if err != nil {
		return err
	}
	if err := declared(d.g.Values[id], t.Elem, t.Shape, x.at); err != nil {
		return err
	}
	d.constant(id, t)
	return nil
}

// declared refuses a declaration that an initializer, of this type and shape, contradicts.
func declared(v model.Value, elem model.Elem, shape []int, at int64) error {
	ok := (v.Elem == model.ElemNone || v.Elem == elem) && (v.Shape == nil || len(v.Shape) == len(shape))
	for i := 0; ok && i < len(v.Shape); i++ {
		ok = v.Shape[i] < 0 || v.Shape[i] == shape[i]
	}
	if !ok {
		return fault(ErrShape, v.Name, at, "initializer and its declaration", fmt.Sprint(v.Elem, v.Shape), fmt.Sprint(elem, shape))
	}
	return nil
}

func (d *onnx) constant(id model.ValueID, t *model.Tensor) {
	d.g.Constants[id] = t
	v := &d.g.Values[id]
	v.Elem, v.Shape = t.Elem, t.Shape
}

func (d *onnx) node(x field) error {
	n := &onnxNode{op: &model.TensorOp{Attrs: map[string]model.Attribute{}}, at: x.at}
	n.n = &model.Node{Attr: n.op}
	err := x.body.each(func(y field) (err error) {
		var s string
		switch y.num {
		case 1:
			s, err = y.str()
			n.in = append(n.in, s)
		case 2:
			s, err = y.str()
			n.out = append(n.out, s)
		case 3:
			n.n.Name, err = y.str()
		case 4:
			s, err = y.str()
			n.n.Op = model.Op(s)
		case 5:
			return d.attribute(n, y)
		case 7:
			n.op.Domain, err = y.str()
		}
		if len(n.in)+len(n.out) > 1<<16 {
			return fault(ErrLimit, "", y.at, "inputs and outputs of a node", fmt.Sprint("at most ", 1<<16), "more")
		}
		return err
	})
	if err != nil {
		return err
	}
	if n.op.Domain == "ai.onnx" {
		n.op.Domain = ""
	}
	if n.n.Op == "" {
		return fault(ErrFormat, n.n.Name, x.at, "node without an op", nil, nil)
	}
	if err := word("op", string(n.n.Op), x.at); err != nil {
		return err
	}
	if err := word("domain", n.op.Domain, x.at); err != nil {
		return err
	}
	version, ok := d.g.Opsets[n.op.Domain]
	if !ok && len(d.g.Opsets) > 0 {
		return fault(ErrUnsupported, n.n.Name, x.at, fmt.Sprintf("op %s of domain %q", n.n.Op, n.op.Domain), "a domain whose opset the model imports", nil)
	}
	n.op.Version = version
	if n.n.Name == "" {
		for _, o := range n.out {
			if o != "" {
				n.n.Name = o
				break
			}
		}
	}
	d.nodes = append(d.nodes, n)
	return nil
}

// word refuses what messages would show as it stands and is no word of one line: identifiers of ONNX are
// letters, digits and a few signs.
func word(what, s string, at int64) error {
	if len(s) > 256 {
		return fault(ErrLimit, "", at, what, "at most 256 letters", len(s))
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return fault(ErrFormat, "", at, what, "letters, digits and signs", s)
		}
	}
	return nil
}

// valueInfo reads a ValueInfoProto and keeps its type.
func (d *onnx) valueInfo(x field) (string, error) {
	var name string
	var typ *wire
	err := x.body.each(func(y field) (err error) {
		switch y.num {
		case 1:
			name, err = y.str()
		case 2:
			if err = y.want(protowire.BytesType); err == nil {
				typ = &y.body
			}
		}
		return err
	})
	if err != nil || name == "" {
		if err == nil {
			err = fault(ErrFormat, "", x.at, "value without a name", nil, nil)
		}
		return "", err
	}
	id := d.value(name)
	if typ == nil {
		return name, nil
	}
	was := d.g.Values[id]
	v := model.Value{Name: name}
	err = typ.each(func(y field) error {
		if y.num != 1 { // sequences and others have no one shape
			return nil
		}
		if err := y.want(protowire.BytesType); err != nil {
			return err
		}
		return y.body.each(func(z field) error { return d.tensorType(&v, z) })
	})
	switch {
	case err != nil:
	case d.origin[id] == "initializer": // it knows better
		err = declared(v, was.Elem, was.Shape, x.at)
	default:
		if v.Elem != model.ElemNone {
			was.Elem = v.Elem
		}
		if v.Shape != nil {
			was.Shape = v.Shape
		}
		d.g.Values[id] = was
	}
	return name, err
}

func (d *onnx) tensorType(v *model.Value, z field) error {
	switch z.num {
	case 1:
		e, err := z.integer()
		if err != nil {
			return err
		}
		if e < 0 || e > 255 || e != 0 && !model.Elem(e).Supported() {
			return fault(ErrUnsupported, v.Name, z.at, "data type of a value", "a type of numbers, booleans or strings", e)
		}
		v.Elem = model.Elem(e)
	case 2:
		if err := z.want(protowire.BytesType); err != nil {
			return err
		}
		v.Shape = []int{}
		return z.body.each(func(dim field) error {
			if dim.num != 1 {
				return nil
			}
			if err := dim.want(protowire.BytesType); err != nil {
				return err
			}
			if len(v.Shape) >= maxRank {
				return fault(ErrLimit, v.Name, dim.at, "dimensions", fmt.Sprint("at most ", maxRank), "more")
			}
			size := -1
			err := dim.body.each(func(y field) error {
				if y.num != 1 {
					return nil
				}
				n, err := y.integer()
				if err == nil && n < 0 || n > 1<<48 {
					return fault(ErrShape, v.Name, y.at, "dimension", "0 or more", n)
				}
				size = int(n)
				return err
			})
			v.Shape = append(v.Shape, size)
			return err
		})
	}
	return nil
}

func (d *onnx) attribute(n *onnxNode, x field) error {
	if err := x.want(protowire.BytesType); err != nil {
		return err
	}
	var name string
	var a model.Attribute
	seen := model.AttrKind(0)
	err := x.body.each(func(y field) (err error) {
		switch y.num {
		case 1:
			name, err = y.str()
		case 2:
			if err = y.want(protowire.Fixed32Type); err == nil {
				a.F = f32bits(y.u)
				seen = model.AttrFloat
			}
		case 3:
			a.I, err = y.integer()
			seen = model.AttrInt
		case 4:
			var b []byte
			b, err = y.bytes(maxString)
			a.S = string(b)
			seen = model.AttrString
		case 5:
			if err = y.want(protowire.BytesType); err != nil {
				return err
			}
			p, err := d.tensor(y.body)
			if err != nil {
				return err
			}
			a.T, err = d.decode(p)
			seen = model.AttrTensor
			return err
		case 6, 10, 11, 14, 15, 22, 23:
			seen = model.AttrGraph
			if y.num == 22 && n.n.Op == "Constant" {
				s, err := d.sparseTensor(y)
				if err != nil {
					return err
				}
				a.T, err = s.dense(d)
				seen = model.AttrTensor
				return err
			}
		case 7:
			a.Floats, err = y.floats(a.Floats, 1<<24)
			seen = model.AttrFloats
		case 8:
			a.Ints, err = y.ints(a.Ints, 1<<24)
			seen = model.AttrInts
		case 9:
			var b []byte
			b, err = y.bytes(maxString)
			a.Strings = append(a.Strings, string(b))
			seen = model.AttrStrings
		case 20:
			v, err := y.integer()
			if err != nil {
				return err
			}
			if v < 0 || v > 14 {
				return fault(ErrFormat, name, y.at, "type of an attribute", "0 to 14", v)
			}
			a.Kind = model.AttrKind(v)
		case 21:
			return fault(ErrUnsupported, name, y.at, "attribute that refers to a function's", nil, nil)
		}
		return err
	})
	if err != nil {
		return err
	}
	if a.Kind == 0 {
		a.Kind = seen
	}
	if _, ok := n.op.Attrs[name]; ok || name == "" {
		return fault(ErrFormat, name, x.at, "attribute without a name or twice", nil, nil)
	}
	if len(n.op.Attrs) >= 1<<10 {
		return fault(ErrLimit, name, x.at, "attributes of a node", fmt.Sprint("at most ", 1<<10), "more")
	}
	n.op.Attrs[name] = a
	return nil
}
