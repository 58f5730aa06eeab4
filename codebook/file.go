package codebook

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/sparserun/sparserun/sparse"
)

// Magic begins a file.
const Magic = "SRCB0001"

// Kinds of a tensor in a file.
const (
	KindCoded byte = 1 // a coded tensor
	KindF32   byte = 2 // plain float32
	KindF16   byte = 3 // plain float16
)

// Limits of a file: what its header may ask for.
const (
	maxName    = 1 << 12
	maxRank    = 8
	maxTensors = 1 << 16
)

// Tensor is one weight of a file.
type Tensor struct {
	Name  string
	Shape []int
	Kind  byte
	Data  []byte // as Kind says
}

// Len is the number of weights.
func (t *Tensor) Len() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Floats decodes the tensor.
func (t *Tensor) Floats() ([]float32, error) {
	n := t.Len()
	size := map[byte]int{KindF32: 4, KindF16: 2}[t.Kind]
	if t.Kind != KindCoded && len(t.Data) != n*size {
		return nil, fmt.Errorf("codebook: %.80q: %v: want %d bytes, got %d: %w", t.Name, t.Shape, n*size, len(t.Data), ErrFormat)
	}
	w := make([]float32, 0)
	switch t.Kind {
	case KindCoded:
		w, err := Decode(t.Data, n)
		if err != nil {
			return nil, fmt.Errorf("%.80q: %w", t.Name, err)
		}
		return w, nil
	case KindF32:
		for i := range n {
			w = append(w, math.Float32frombits(binary.LittleEndian.Uint32(t.Data[4*i:])))
		}
	case KindF16:
		for i := range n {
			w = append(w, sparse.F16ToF32(binary.LittleEndian.Uint16(t.Data[2*i:])))
		}
	}
	return w, nil
}

// Coded makes a coded tensor.
func Coded(name string, shape []int, w []float32, entries int) (Tensor, Stats, error) {
	b, st, err := Encode(w, entries)
	if err != nil {
		return Tensor{}, st, fmt.Errorf("%.80q: %w", name, err)
	}
	return Tensor{name, shape, KindCoded, b}, st, nil
}

// Half makes a tensor of float16, or of float32 where a number is out of float16's range.
func Half(name string, shape []int, w []float32) Tensor {
	t := Tensor{Name: name, Shape: shape, Kind: KindF16}
	for _, v := range w {
		h := sparse.F32ToF16(v)
		if f := sparse.F16ToF32(h); f-f != 0 || f == 0 && v != 0 {
			t.Data, t.Kind = t.Data[:0], KindF32
			for _, v := range w {
				t.Data = binary.LittleEndian.AppendUint32(t.Data, math.Float32bits(v))
			}
			return t
		}
		t.Data = binary.LittleEndian.AppendUint16(t.Data, h)
	}
	return t
}

// Stats say how a coded tensor's bytes are spent.
func (t *Tensor) Stats() (Stats, error) {
	w, err := t.Floats()
	if err != nil || t.Kind != KindCoded {
		return Stats{Weights: len(w), Bytes: len(t.Data)}, err
	}
	c, err := Cluster(w, MaxEntries) // exact: no file has more entries
	if err != nil {
		return Stats{}, err
	}
	_, st := c.encode(int(t.Data[0]))
	// A file may list entries that no weight uses.
	h, err := readHeader(&reader{b: t.Data}, len(w))
	if err != nil {
		return st, err
	}
	st.Tables += len(t.Data) - st.Bytes - 4*(len(h.entries)-st.Entries)
	st.Entries, st.Codebook, st.Bytes = len(h.entries), 4*len(h.entries), len(t.Data)
	return st, nil
}

// File is a network's description, whatever its format, and its weights.
type File struct {
	Network []byte
	Tensors []Tensor
}

// Append writes the file behind b.
func (f *File) Append(b []byte) []byte {
	start := len(b)
	b = append(b, Magic...)
	b = append(b, 0, 0, 0, 0) // checksum
	b = binary.AppendUvarint(b, uint64(len(f.Network)))
	b = append(b, f.Network...)
	b = binary.AppendUvarint(b, uint64(len(f.Tensors)))
	for _, t := range f.Tensors {
		b = append(binary.AppendUvarint(b, uint64(len(t.Name))), t.Name...)
		b = append(b, t.Kind, byte(len(t.Shape)))
		for _, d := range t.Shape {
			b = binary.AppendUvarint(b, uint64(d))
		}
		b = append(binary.AppendUvarint(b, uint64(len(t.Data))), t.Data...)
	}
	binary.LittleEndian.PutUint32(b[start+len(Magic):], crc32.ChecksumIEEE(b[start+len(Magic)+4:]))
	return b
}

// Read takes a file apart; the parts share its memory. maxWeights bounds the weights of all
// tensors together, which decoding them would allocate.
func Read(b []byte, maxWeights int64) (*File, error) {
	r := &reader{b: b}
	head, err := r.take(len(Magic), "magic")
	if err != nil {
		return nil, err
	}
	if string(head) != Magic {
		return nil, fmt.Errorf("codebook: magic: want %q, got %.16q: %w", Magic, head, ErrFormat)
	}
	sum, err := r.u32("checksum")
	if err != nil {
		return nil, err
	}
	if got := crc32.ChecksumIEEE(r.b); got != sum {
		return nil, fmt.Errorf("codebook: checksum: want %08x, got %08x: %w", sum, got, ErrFormat)
	}
	f := &File{}
	if f.Network, err = r.block(math.MaxInt32, "network"); err != nil {
		return nil, err
	}
	n, err := r.uvarint(maxTensors, "number of tensors")
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for range n {
		t, err := r.tensor(&maxWeights)
		if err != nil {
			return nil, err
		}
		if names[t.Name] {
			return nil, fmt.Errorf("codebook: offset %d: tensor %.80q twice: %w", r.base, t.Name, ErrFormat)
		}
		names[t.Name] = true
		f.Tensors = append(f.Tensors, *t)
	}
	if len(r.b) > 0 {
		return nil, fmt.Errorf("codebook: offset %d: %d bytes after the end: %w", r.base, len(r.b), ErrFormat)
	}
	return f, nil
}

func (r *reader) uvarint(most uint64, what string) (int, error) {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		return 0, fmt.Errorf("codebook: offset %d: %s: no number: %w", r.base, what, ErrTruncated)
	}
	if v > most {
		return 0, fmt.Errorf("codebook: offset %d: %s: want at most %d, got %d: %w", r.base, what, most, v, ErrLimit)
	}
	r.b, r.base = r.b[n:], r.base+n
	return int(v), nil
}

func (r *reader) block(most uint64, what string) ([]byte, error) {
	n, err := r.uvarint(most, "length of "+what)
	if err != nil {
		return nil, err
	}
	return r.take(n, what)
}

func (r *reader) tensor(left *int64) (*Tensor, error) {
	name, err := r.block(maxName, "name")
	if err != nil {
		return nil, err
	}
	t := &Tensor{Name: string(name)}
	kind, err := r.take(2, "kind and rank")
	if err != nil {
		return nil, err
	}
	t.Kind = kind[0]
	if t.Kind < KindCoded || t.Kind > KindF16 || kind[1] > maxRank || t.Name == "" {
		return nil, fmt.Errorf("codebook: offset %d: tensor %.80q of kind %d and rank %d: %w", r.base-2, t.Name, kind[0], kind[1], ErrFormat)
	}
	size := int64(1)
	for range kind[1] {
		d, err := r.uvarint(math.MaxInt32, "dimension")
		if err != nil {
			return nil, err
		}
		t.Shape = append(t.Shape, d)
		if size *= int64(d); size > *left || size > math.MaxInt32 {
			return nil, fmt.Errorf("codebook: offset %d: tensor %.80q: %v: more than %d weights: %w", r.base, t.Name, t.Shape, *left, ErrLimit)
		}
	}
	*left -= size
	t.Data, err = r.block(math.MaxInt32, fmt.Sprintf("tensor %.80q", t.Name))
	return t, err
}
