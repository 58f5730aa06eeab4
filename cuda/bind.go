package cuda

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// bind checks a batch's numbers - no kernel looks at an index twice - and copies
// them to the device.
func (p *program) bind(in, out []runtime.View) error {
	b, err := p.plan.Check(p.inputs, in, out)
	if err != nil {
		return err
	}
	p.rows, p.selected, p.single = b.Rows, b.Selected, b.Single
	for i, d := range p.inputs {
		var data []byte
		switch d.Kind {
		case runtime.InputUnused:
			continue
		case runtime.InputFloats:
			data = p.activations(in[i])
		case runtime.InputTables:
			// Tables get one stride, so that a captured graph's parameters stay true.
			t := in[i]
			wide := make([]int32, t.Rows*p.maxPages)
			for r := range t.Rows {
				copy(wide[r*p.maxPages:(r+1)*p.maxPages], t.I32[r*t.Cols:(r+1)*t.Cols])
			}
			data = ints(wide)
		default:
			data = ints(in[i].I32)
		}
		if len(data) == 0 {
			continue
		}
		if err := p.d.HtoD(p.buffers[p.plan.Inputs[i]], data); err != nil {
			return err
		}
	}
	if len(p.attn.layers) > 0 {
		var tiles []int32
		p.runs, tiles = cutRuns(b.Positions, b.Sequences)
		p.class = contextClass(int(slices.Max(b.Positions)) + 1)
		if len(tiles) > 0 {
			if err := p.d.HtoD(p.attn.tiles, ints(tiles)); err != nil {
				return err
			}
		}
	}
	for i, s := range b.Sequences {
		for k := range int(b.Positions[i])/p.plan.KV.PageTokens + 1 {
			p.usedPages[b.Tables.I32[int(s)*b.Tables.Cols+k]] = true
		}
	}
	return nil
}

// activations are a view's numbers in the device's type and row stride.
func (p *program) activations(v runtime.View) []byte {
	var b []byte
	for r := range v.Rows {
		for c := range ld(v.Cols) {
			var x float32
			if c < v.Cols {
				x = v.F32[r*v.Cols+c]
			}
			if p.act == sparse.F16 {
				b = binary.LittleEndian.AppendUint16(b, sparse.F32ToF16(x))
			} else {
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
			}
		}
	}
	return b
}

func ints(v []int32) []byte {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, uint32(x))
	}
	return b
}
