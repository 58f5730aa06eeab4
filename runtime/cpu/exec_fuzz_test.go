package cpu_test

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

// FuzzInputs feeds a language model numbers of any kind: a batch runs or is refused
// with a typed error.
func FuzzInputs(f *testing.F) {
	dir := testenv.Data(f, "stories260K/config.json")
	g, err := loader.Open(dir[:len(dir)-len("/config.json")])
	if err != nil {
		f.Fatal(err)
	}
	b := cpu.New(cpu.Threads(2))
	p, _ := compiled(f, g, b, runtime.Options{DType: sparse.F16, Context: 128, Chunk: 8, Select: 2})
	f.Cleanup(func() { _ = errors.Join(p.Close(), b.Close(), g.Close()) })
	word := func(x ...int16) []byte {
		var out []byte
		for _, v := range x {
			out = binary.LittleEndian.AppendUint16(out, uint16(v))
		}
		return out
	}
	f.Add(uint8(2), uint8(1), uint8(2), uint8(1), word(5, 6, 0, 1, 0, 0, 2, 3, 1))
	f.Add(uint8(1), uint8(1), uint8(1), uint8(1), word(-1, 0, 0, 0, 0))
	f.Add(uint8(1), uint8(1), uint8(1), uint8(1), word(1, 500, 0, 3, 0))
	f.Add(uint8(8), uint8(8), uint8(4), uint8(2), word(1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7))
	f.Fuzz(func(t *testing.T, rows, seqs, pages, selected uint8, data []byte) {
		next := func() int32 {
			if len(data) < 2 {
				return 0
			}
			v := int32(int16(binary.LittleEndian.Uint16(data)))
			data = data[2:]
			if v > 30000 || v < -30000 { // now and then the far ends
				v <<= 16
			}
			return v
		}
		view := func(rows, cols int) runtime.View {
			v := runtime.View{Rows: rows, Cols: cols, I32: make([]int32, rows*cols)}
			for i := range v.I32 {
				v.I32[i] = next()
			}
			return v
		}
		var in [5]runtime.View
		for _, i := range []int{model.InTokens, model.InPos, model.InSeq} {
			in[i] = view(int(rows%12), 1)
		}
		in[model.InTables] = view(int(seqs%12), int(pages%6))
		in[model.InSelect] = view(int(selected%4), 1)
		n := int(selected % 4)
		out := runtime.View{Rows: n, Cols: 512, F32: make([]float32, n*512)}
		err := p.Run(context.Background(), in[:], []runtime.View{out}, nil)
		if err != nil && !errors.Is(err, runtime.ErrInput) && !errors.Is(err, runtime.ErrShape) && !errors.Is(err, runtime.ErrContext) {
			t.Fatalf("untyped error: %v", err)
		}
	})
}
