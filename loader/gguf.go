package loader

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/sparserun/sparserun/sparse"
)

// Limits on what a GGUF header may hold. Every count is also checked against the
// bytes that are left, so that memory stays within a small multiple of the file.
const (
	maxTensors       = 1 << 17
	ggufMaxKeys      = 1 << 16
	ggufMaxKeyBytes  = 1 << 16
	ggufMaxNameBytes = 1 << 10
	ggufMaxString    = 16 << 20
	ggufMaxArray     = 1 << 26
	ggufMaxStrings   = 1 << 22
	ggufMaxAlignment = 1 << 20
)

// GGUF value types (ggml's gguf.h).
const (
	ggufU8 = iota
	ggufI8
	ggufU16
	ggufI16
	ggufU32
	ggufI32
	ggufF32
	ggufBool
	ggufString
	ggufArray
	ggufU64
	ggufI64
	ggufF64
)

var ggufSize = [...]int{1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8}

var ggufTypes = map[uint32]sparse.DType{
	0: sparse.F32, 1: sparse.F16, 2: sparse.Q4_0, 3: sparse.Q4_1, 6: sparse.Q5_0, 7: sparse.Q5_1, 8: sparse.Q8_0,
	12: sparse.Q4_K, 13: sparse.Q5_K, 14: sparse.Q6_K, 24: sparse.Int8, 25: sparse.Int16, 26: sparse.Int32, 27: sparse.Int64,
	28: sparse.F64, 30: sparse.BF16,
}

// ggufFile is a parsed header.
type ggufFile struct {
	version uint32
	meta    map[string]any // numbers as int64, uint64 or float64; bool; string; []string; []byte-backed numbers as []float64 or []int64
	tensors []ggufTensor
}

type ggufTensor struct {
	name  string
	shape []int // outermost first, as everywhere but in GGUF
	t     sparse.DType
	off   int64 // in the file
	size  int64
}

// ggufReader reads the header through a small buffer and never past the file.
type ggufReader struct {
	r    *bufio.Reader
	pos  int64
	size int64
	tmp  [8]byte
}

func (g *ggufReader) left() int64 { return g.size - g.pos }

func (g *ggufReader) bytes(n int) ([]byte, error) {
	b := g.tmp[:n]
	if int64(n) > g.left() {
		return nil, fault(ErrTruncated, "", g.pos, "header", fmt.Sprint(n, " bytes"), g.left())
	}
	if _, err := io.ReadFull(g.r, b); err != nil {
		return nil, fault(ErrTruncated, "", g.pos, "header: "+err.Error(), nil, nil)
	}
	g.pos += int64(n)
	return b, nil
}

func (g *ggufReader) u32() (uint32, error) {
	b, err := g.bytes(4)
	if err != nil {
		return 0, err
	}
	return le32(b), nil
}

func (g *ggufReader) u64() (uint64, error) {
	b, err := g.bytes(8)
	if err != nil {
		return 0, err
	}
	return le64(b), nil
}

// count reads a number of things of at least each bytes.
func (g *ggufReader) count(what string, limit uint64, each int64) (int, error) {
	at := g.pos
	n, err := g.u64()
	if err != nil {
		return 0, err
	}
	if n > uint64(g.left()/each) {
		return 0, fault(ErrTruncated, "", at, what, fmt.Sprintf("at most %d in the %d bytes left", g.left()/each, g.left()), n)
	}
	if n > limit {
		return 0, fault(ErrLimit, "", at, what, fmt.Sprint("at most ", limit), n)
	}
	return int(n), nil
}

func (g *ggufReader) str(what string, limit uint64) (string, error) {
	n, err := g.count(what, limit, 1)
	if err != nil {
		return "", err
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(g.r, b); err != nil {
		return "", fault(ErrTruncated, "", g.pos, what+": "+err.Error(), nil, nil)
	}
	g.pos += int64(n)
	return string(b), nil
}

// readGGUF parses versions 2 and 3, little-endian.
func readGGUF(src *source) (*ggufFile, error) {
	g := &ggufReader{r: bufio.NewReaderSize(io.NewSectionReader(src.f, 0, src.size), 1<<16), size: src.size}
	magic, err := g.u32()
	if err != nil {
		return nil, err
	}
	if magic != 0x46554747 {
		return nil, fault(ErrFormat, "", 0, "magic", "GGUF", fmt.Sprintf("%#x", magic))
	}
	v, err := g.u32()
	if err != nil {
		return nil, err
	}
	if v&0xffff == 0 && v != 0 {
		return nil, fault(ErrUnsupported, "", 4, "version (big-endian file)", "2 or 3, little-endian", fmt.Sprintf("%#x", v))
	}
	if v != 2 && v != 3 {
		return nil, fault(ErrUnsupported, "", 4, "version", "2 or 3", v)
	}
	nt, err := g.count("number of tensors", maxTensors, 24)
	if err != nil {
		return nil, err
	}
	nk, err := g.count("number of keys", ggufMaxKeys, 13)
	if err != nil {
		return nil, err
	}
	f := &ggufFile{version: v, meta: map[string]any{}}
	for range nk {
		if err := f.readKey(g); err != nil {
			return nil, err
		}
	}
	return f, f.readTensors(g, nt)
}

func (f *ggufFile) readKey(g *ggufReader) error {
	at := g.pos
	key, err := g.str("length of a key", ggufMaxKeyBytes)
	if err != nil {
		return err
	}
	if _, dup := f.meta[key]; dup {
		return fault(ErrFormat, key, at, "key occurs twice", nil, nil)
	}
	kind, err := g.u32()
	if err == nil {
		f.meta[key], err = g.value(kind)
	}
	if e, ok := err.(*Error); ok && e.Tensor == "" {
		e.Tensor = key
	}
	return err
}

func (g *ggufReader) value(kind uint32) (any, error) {
	switch {
	case kind == ggufString:
		return g.str("length of a string", ggufMaxString)
	case kind == ggufArray:
		return g.array()
	case kind >= uint32(len(ggufSize)):
		return nil, fault(ErrFormat, "", g.pos-4, "type of a value", "0 to 12", int32(kind))
	}
	at := g.pos
	b, err := g.bytes(ggufSize[kind])
	if err != nil {
		return nil, err
	}
	if kind == ggufBool {
		if b[0] > 1 {
			return nil, fault(ErrFormat, "", at, "boolean", "0 or 1", b[0])
		}
		return b[0] == 1, nil
	}
	return ggufNumber(kind, b), nil
}

func ggufNumber(kind uint32, b []byte) any {
	switch kind {
	case ggufU8:
		return int64(b[0])
	case ggufI8:
		return int64(int8(b[0]))
	case ggufU16:
		return int64(le16(b))
	case ggufI16:
		return int64(int16(le16(b)))
	case ggufU32:
		return int64(le32(b))
	case ggufI32:
		return int64(int32(le32(b)))
	case ggufF32:
		return float64(math.Float32frombits(le32(b)))
	case ggufF64:
		return math.Float64frombits(le64(b))
	case ggufI64:
		return int64(le64(b))
	}
	if u := le64(b); u <= math.MaxInt64 {
		return int64(u)
	}
	return le64(b)
}

// numbers is an array of numbers in its file form; at gives one of them.
type numbers struct {
	kind uint32
	raw  []byte
}

func (n numbers) len() int     { return len(n.raw) / ggufSize[n.kind] }
func (n numbers) at(i int) any { return ggufNumber(n.kind, n.raw[i*ggufSize[n.kind]:]) }

func (g *ggufReader) array() (any, error) {
	at := g.pos
	kind, err := g.u32()
	if err != nil {
		return nil, err
	}
	if kind == ggufArray {
		return nil, fault(ErrUnsupported, "", at, "array of arrays", nil, nil)
	}
	if kind >= uint32(len(ggufSize)) {
		return nil, fault(ErrFormat, "", at, "type of an array's elements", "0 to 12", int32(kind))
	}
	limit := uint64(ggufMaxArray)
	if kind == ggufString {
		limit = ggufMaxStrings
	}
	n, err := g.count("length of an array", limit, int64(ggufSize[kind]))
	if err != nil {
		return nil, err
	}
	if kind != ggufString {
		raw := make([]byte, n*ggufSize[kind])
		if _, err := io.ReadFull(g.r, raw); err != nil {
			return nil, fault(ErrTruncated, "", g.pos, "array: "+err.Error(), nil, nil)
		}
		g.pos += int64(len(raw))
		return numbers{kind, raw}, nil
	}
	list := make([]string, n) // 16 bytes for 8 of the file, which count has seen
	for i := range list {
		if list[i], err = g.str("length of a string", ggufMaxString); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (f *ggufFile) readTensors(g *ggufReader, n int) error {
	align := int64(32)
	if v, ok := f.meta["general.alignment"]; ok {
		a, ok := v.(int64)
		if !ok || a < 1 || a > ggufMaxAlignment || a&(a-1) != 0 {
			return fault(ErrFormat, "general.alignment", -1, "alignment", fmt.Sprint("a power of two up to ", ggufMaxAlignment), v)
		}
		align = a
	}
	seen := make(map[string]struct{}, min(n, 1024))
	for range n {
		at := g.pos
		t, err := g.tensor()
		if err != nil {
			return err
		}
		if _, dup := seen[t.name]; dup {
			return fault(ErrFormat, t.name, at, "tensor occurs twice", nil, nil)
		}
		seen[t.name] = struct{}{}
		f.tensors = append(f.tensors, t)
	}
	base := (g.pos + align - 1) &^ (align - 1)
	for i := range f.tensors {
		t := &f.tensors[i]
		if t.off%align != 0 {
			return fault(ErrFormat, t.name, base+t.off, "offset", fmt.Sprint("a multiple of ", align), t.off)
		}
		if base > g.size || t.off > g.size-base || t.size > g.size-base-t.off {
			return fault(ErrTruncated, t.name, -1, "data", fmt.Sprintf("%d bytes at %d+%d", t.size, base, t.off), fmt.Sprint("a file of ", g.size))
		}
		t.off += base
	}
	order := slices.Clone(f.tensors)
	slices.SortFunc(order, func(a, b ggufTensor) int {
		if c := a.off - b.off; c != 0 {
			return int(max(-1, min(1, c)))
		}
		return int(max(-1, min(1, a.size-b.size)))
	})
	for i := 1; i < len(order); i++ {
		if a, b := order[i-1], order[i]; a.off+a.size > b.off {
			return fault(ErrShape, b.name, b.off, fmt.Sprintf("data overlaps %.80q", a.name), fmt.Sprint("an offset of at least ", a.off+a.size), nil)
		}
	}
	return nil
}

// tensor reads one tensor's description; off is still relative.
func (g *ggufReader) tensor() (t ggufTensor, err error) {
	if t.name, err = g.str("length of a tensor's name", ggufMaxNameBytes); err != nil {
		return t, err
	}
	at := g.pos
	dims, err := g.u32()
	if err != nil {
		return t, err
	}
	if dims < 1 || dims > 4 {
		return t, fault(ErrShape, t.name, at, "number of dimensions", "1 to 4", dims)
	}
	t.shape = make([]int, dims)
	total := int64(1)
	for i := range t.shape {
		at := g.pos
		d, err := g.u64()
		if err != nil {
			return t, err
		}
		if d < 1 || d > math.MaxInt64/8/uint64(total) {
			return t, fault(ErrShape, t.name, at, "dimension", fmt.Sprint("1 to ", math.MaxInt64/8/total), d)
		}
		total *= int64(d)
		t.shape[len(t.shape)-1-i] = int(d)
	}
	at = g.pos
	kind, err := g.u32()
	if err != nil {
		return t, err
	}
	typ, ok := ggufTypes[kind]
	if !ok {
		return t, fault(ErrUnsupported, t.name, at, "tensor type", "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K", int32(kind))
	}
	t.t = typ
	ft := formats[typ]
	if cols := t.shape[len(t.shape)-1]; cols%ft.block != 0 {
		return t, fault(ErrShape, t.name, at, fmt.Sprintf("row of %v", typ), fmt.Sprint("a multiple of ", ft.block), cols)
	}
	t.size = total / int64(ft.block) * int64(ft.bytes)
	off, err := g.u64()
	if err != nil {
		return t, err
	}
	if off > math.MaxInt64 {
		return t, fault(ErrTruncated, t.name, g.pos-8, "offset", nil, off)
	}
	t.off = int64(off)
	return t, nil
}
