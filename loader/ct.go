package loader

import (
	"fmt"
	"strings"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// Suffixes of compressed-tensors' tensors (v0.4 to 0.17), which replace or go
// with <module>.weight. What a module is, its tensors say; the configuration
// only adds bits and groups, and must not contradict them.
const (
	ctCompressed = ".compressed"
	ctInt4       = ".compressed_int4" // ours, docs/format.md
	ctBitmask    = ".bitmask"
	ctOffsets    = ".row_offsets"
	ctShape      = ".shape"
	ctPacked     = ".weight_packed"
	ctScale      = ".weight_scale"
	ctZero       = ".weight_zero_point"
	ctIndex      = ".weight_g_idx"
	ctDims       = ".weight_shape"
	ctMarlin     = ".scale_packed"
	ctMeta       = ".meta"
)

// activations are scales that concern activations or the KV cache: a runtime
// that keeps activations in floating point has no use for them.
var activations = []string{".input_scale", ".input_zero_point", ".output_scale", ".output_zero_point", ".k_scale", ".v_scale", ".q_scale",
	".input_global_scale"}

// modules groups a checkpoint's tensors by module.
type modules struct {
	o      *options
	byName map[string]*safeTensor
	used   map[string]bool
	cfg    *ctConfig
	config string // how errors name config.json
	count  tally
}

// tally is what the sparse forms of a checkpoint hold, for the declared sparsity.
type tally struct {
	weights   int64 // in all matrices
	certain   int64 // weights known to be zero
	sparse    int64 // weights in sparse forms
	maybeZero int64 // stored weights: zero or not, nobody looked
}

// weights turns tensors into weights, whatever form they have.
func (ck *checkpoint) weights(config object, o *options) ([]*model.Weight, error) {
	cfg, err := readCTConfig(config)
	if err != nil {
		return nil, inFile(err, ck.config)
	}
	m := &modules{o: o, config: ck.config, byName: map[string]*safeTensor{}, used: map[string]bool{}, cfg: cfg}
	for _, t := range ck.tensors {
		if m.byName[t.name] != nil {
			return nil, inFile(fault(ErrFormat, t.name, -1, "tensor lies in two shards", nil, nil), t.src.name)
		}
		m.byName[t.name] = t
	}
	var out []*model.Weight
	for _, t := range ck.tensors {
		w, err := m.weight(t)
		if err != nil {
			return nil, inFile(err, t.src.name)
		}
		if w != nil {
			out = append(out, w)
		}
	}
	// What no module took is a weight of its own, in file order after the others.
	for _, t := range ck.tensors {
		if m.used[t.name] {
			continue
		}
		for _, a := range activations {
			if strings.HasSuffix(t.name, a) {
				m.used[t.name] = true
			}
		}
		if !m.used[t.name] {
			d := t.matrix(o)
			m.count.dense(d)
			out = append(out, &model.Weight{Name: t.name, Shape: t.shape, Data: d})
		}
	}
	return out, m.checkSparsity()
}

func (c *tally) dense(m sparse.Matrix) {
	r, cols := m.Dims()
	if r > 1 {
		c.weights += int64(r) * int64(cols)
		c.maybeZero += int64(r) * int64(cols)
	}
}

// part finds a sibling tensor and marks it as used.
func (m *modules) part(mod, suffix string) *safeTensor {
	t := m.byName[mod+suffix]
	if t != nil {
		m.used[t.name] = true
	}
	return t
}

// weight builds the weight whose leading tensor t is; nil if t leads none.
func (m *modules) weight(t *safeTensor) (*model.Weight, error) {
	if base, ok := strings.CutSuffix(t.name, "_orig"); ok && m.byName[base+"_mask"] != nil {
		return m.masked(base, t)
	}
	mod, suffix, ok := cutLast(t.name, ".")
	if !ok {
		return nil, nil
	}
	switch "." + suffix {
	case ctBitmask:
		return m.bitmask(mod, t)
	case ctPacked:
		if m.byName[mod+ctMarlin] != nil {
			return m.marlin(mod, t)
		}
		return m.packed(mod, t)
	case ".weight":
		if m.byName[mod+ctScale] != nil {
			return m.naive(mod, t)
		}
		if t.t == sparse.Int8 || t.t == sparse.FP8 {
			return nil, t.fail(ErrSparse, fmt.Sprintf("%v weight without %s%s", t.t, mod, ctScale), nil, nil)
		}
	case ctCompressed, ctInt4:
		if m.byName[mod+ctBitmask] == nil {
			return nil, t.fail(ErrSparse, "compressed values without "+mod+ctBitmask, nil, nil)
		}
	}
	return nil, nil
}

// ints reads a short tensor of whole numbers.
func (t *safeTensor) ints(limit int) ([]int64, error) {
	n := int(t.size) / formats[t.t].bytes
	if n > limit {
		return nil, t.fail(ErrSparse, "length", fmt.Sprint("at most ", limit), n)
	}
	b, err := t.bytes()
	if err != nil {
		return nil, err
	}
	out := make([]int64, n)
	for i := range out {
		switch t.t {
		case sparse.Int64:
			out[i] = int64(le64(b[8*i:]))
		case sparse.Int32:
			out[i] = int64(int32(le32(b[4*i:])))
		case sparse.Uint8:
			out[i] = int64(b[i])
		case sparse.Int8:
			out[i] = int64(int8(b[i]))
		default:
			return nil, t.fail(ErrSparse, "type", "whole numbers", t.t)
		}
	}
	return out, nil
}

// scales reads the quantisation parameters of an R x C weight: a scale per
// tensor, row, group of columns or block. They come out per row.
func (m *modules) scales(mod string, rows, cols int, zeros []int8) (*sparse.Quant, error) {
	t := m.part(mod, ctScale)
	if t == nil {
		return nil, fault(ErrSparse, mod+ctScale, -1, "scales are missing", nil, nil)
	}
	if t.t != sparse.F16 && t.t != sparse.BF16 && t.t != sparse.F32 {
		return nil, t.fail(ErrSparse, "type of scales", "f16, bf16 or f32", t.t)
	}
	sch := m.cfg.scheme(mod)
	sr, sc := 1, 1
	switch len(t.shape) {
	case 0:
	case 1:
		sr = t.shape[0]
	case 2:
		sr, sc = t.shape[0], t.shape[1]
	default:
		return nil, t.fail(ErrSparse, "shape of scales", "at most two dimensions", fmt.Sprint(t.shape))
	}
	group, rowBlock, err := sch.layout(rows, cols, sr, sc)
	if err != nil {
		return nil, t.fail(ErrSparse, "number of scales", err, fmt.Sprint(t.shape))
	}
	raw, err := sparse.Read(t.matrix(m.o))
	if err != nil {
		return nil, err
	}
	for i, v := range raw {
		if !(v > 0) || v-v != 0 {
			return nil, t.fail(ErrSparse, fmt.Sprint("scale ", i), "a positive number", v)
		}
	}
	q := &sparse.Quant{Group: group, Type: t.t, Scales: raw, Zeros: zeros}
	if sr != rows {
		q.Scales = make([]float32, 0, rows*sc)
		for r := range rows {
			b := min(r/rowBlock, sr-1)
			q.Scales = append(q.Scales, raw[b*sc:(b+1)*sc]...)
		}
	}
	if z := m.byName[mod+ctZero]; z != nil && zeros == nil {
		m.used[z.name] = true
		if err := readZeros(z, q, sr, sc, rows, rowBlock); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// readZeros reads unpacked zero points, which have the shape of the scales.
func readZeros(z *safeTensor, q *sparse.Quant, sr, sc, rows, rowBlock int) error {
	v, err := z.ints(sr * sc)
	if err != nil || len(v) != sr*sc {
		if err == nil {
			err = z.fail(ErrSparse, "number of zero points", sr*sc, len(v))
		}
		return err
	}
	any := false
	for i, x := range v {
		if x < -128 || x > 127 {
			return z.fail(ErrSparse, fmt.Sprint("zero point ", i), "an int8", x)
		}
		any = any || x != 0
	}
	if !any { // symmetric weights often carry zeros for nothing
		return nil
	}
	for r := range rows {
		b := min(r/rowBlock, sr-1)
		for _, x := range v[b*sc : (b+1)*sc] {
			q.Zeros = append(q.Zeros, int8(x))
		}
	}
	return nil
}

// naive is a dense weight of codes with scales: int-, float- and naive-quantized.
func (m *modules) naive(mod string, t *safeTensor) (*model.Weight, error) {
	m.used[t.name] = true
	if t.t != sparse.Int8 && t.t != sparse.FP8 {
		if t.t == sparse.F16 || t.t == sparse.BF16 || t.t == sparse.F32 { // fake-quantised: the weights are real, the scale is a remark
			m.part(mod, ctScale)
			m.part(mod, ctZero)
			m.used[t.name] = false
			return nil, nil
		}
		return nil, t.fail(ErrSparse, "type of quantised weight", "int8 or fp8", t.t)
	}
	if len(t.shape) != 2 || t.size == 0 {
		return nil, t.fail(ErrSparse, "shape", "two dimensions, none of them 0", fmt.Sprint(t.shape))
	}
	d := t.matrix(m.o)
	q, err := m.scales(mod, d.r, d.c, nil)
	if err != nil {
		return nil, err
	}
	d.quant = q
	m.count.dense(d)
	return &model.Weight{Name: t.name, Shape: t.shape, Data: d}, nil
}
