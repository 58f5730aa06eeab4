package servetest

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// Port is an input or output of a network: an ONNX element type and a shape, in which
// -1 is free.
type Port struct {
	Name  string
	Elem  int
	Shape []int64
}

// Node is one operation of a network.
type Node struct {
	Op      string
	In, Out []string
}

// Network writes an ONNX file into a folder of the test and returns its path.
func Network(t testing.TB, in, out []Port, nodes []Node, weights map[string][][]float32) string {
	t.Helper()
	return inFolder(t, ONNX(in, out, nodes, weights))
}

func inFolder(t testing.TB, onnx []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "net.onnx")
	if err := os.WriteFile(path, onnx, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ONNX is the file of a network (opset 17). weights are float32 matrices by name, one
// slice a row.
func ONNX(in, out []Port, nodes []Node, weights map[string][][]float32) []byte {
	var g []byte
	for _, n := range nodes {
		var b []byte
		for _, s := range n.In {
			b = text(b, 1, s)
		}
		for _, s := range n.Out {
			b = text(b, 2, s)
		}
		g = part(g, 1, text(b, 4, n.Op))
	}
	g = text(g, 2, "test")
	for name, rows := range weights {
		var b, raw []byte
		b = number(number(b, 1, int64(len(rows))), 1, int64(len(rows[0])))
		for _, r := range rows {
			for _, x := range r {
				raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
			}
		}
		g = part(g, 5, part(text(number(b, 2, 1), 8, name), 9, raw))
	}
	for _, p := range in {
		g = part(g, 11, p.encode())
	}
	for _, p := range out {
		g = part(g, 12, p.encode())
	}
	m := number(nil, 1, 8) // IR version
	return part(part(m, 7, g), 8, number(text(nil, 1, ""), 2, 17))
}

// Affine writes the network y = x * [[1, 2], [3, 4], [5, 6]] with x [-1, 3].
func Affine(t testing.TB) string {
	t.Helper()
	return inFolder(t, AffineONNX())
}

// AffineONNX is Affine's file.
func AffineONNX() []byte {
	return ONNX([]Port{{"x", 1, []int64{-1, 3}}}, []Port{{"y", 1, []int64{-1, 2}}},
		[]Node{{"MatMul", []string{"x", "w"}, []string{"y"}}}, map[string][][]float32{"w": {{1, 2}, {3, 4}, {5, 6}}})
}

// Types are the datatypes of the Open Inference Protocol with ONNX's numbers of them.
var Types = []struct {
	Name string
	Elem int
}{
	{"BOOL", 9}, {"UINT8", 2}, {"UINT16", 4}, {"UINT32", 12}, {"UINT64", 13}, {"INT8", 3}, {"INT16", 5}, {"INT32", 6}, {"INT64", 7},
	{"FP16", 10}, {"BF16", 16}, {"FP32", 1}, {"FP64", 11}, {"BYTES", 8},
}

// Echo writes the network that gives back an input of each of Types: X, of shape
// [-1, 2], comes out as Xout.
func Echo(t testing.TB) string {
	t.Helper()
	return inFolder(t, EchoONNX())
}

// EchoONNX is Echo's file.
func EchoONNX() []byte {
	var in, out []Port
	var nodes []Node
	for _, d := range Types {
		in = append(in, Port{d.Name, d.Elem, []int64{-1, 2}})
		out = append(out, Port{d.Name + "out", d.Elem, []int64{-1, 2}})
		nodes = append(nodes, Node{"Identity", []string{d.Name}, []string{d.Name + "out"}})
	}
	return ONNX(in, out, nodes, nil)
}

func (p Port) encode() []byte {
	var shape []byte
	for _, d := range p.Shape {
		if d < 0 {
			shape = part(shape, 1, text(nil, 2, "N"))
		} else {
			shape = part(shape, 1, number(nil, 1, d))
		}
	}
	return part(text(nil, 1, p.Name), 2, part(nil, 1, part(number(nil, 1, int64(p.Elem)), 2, shape)))
}

func text(b []byte, field protowire.Number, s string) []byte { return part(b, field, []byte(s)) }

func part(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func number(b []byte, field protowire.Number, v int64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(v))
}
