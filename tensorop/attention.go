package tensorop

import (
	"fmt"
	"math"

	"github.com/sparserun/sparserun/model"
)

// heads views [B, S, heads*D] as [B, heads, S, D]; four dimensions stay.
func heads(t *T, n int) (*T, error) {
	if len(t.Shape) == 4 {
		return t, nil
	}
	if len(t.Shape) != 3 || n < 1 || t.Shape[2]%n != 0 {
		return nil, fmt.Errorf("%v in %d heads: %w", t.Shape, n, ErrShape)
	}
	return Transpose(reshaped(t, t.Shape[0], t.Shape[1], n, t.Shape[2]/n), []int{0, 2, 1, 3})
}

// attention: softmax(softcap(Q K^T scale) + bias) V with grouped heads, a cache in
// front of K and V, boolean or additive masks, causal and sliding windows aligned
// to the end of the keys. A query that may see nothing gives zeros.
func attention(c *Call) ([]*T, error) {
	var t [3]*T
	for i, name := range []string{"q_num_heads", "kv_num_heads", "kv_num_heads"} {
		x, err := c.tensor(i)
		if err != nil {
			return nil, err
		}
		if t[i], err = heads(x, c.int(name, 0)); err != nil {
			return nil, err
		}
		if t[i].Elem != t[0].Elem {
			return nil, fmt.Errorf("q, k, v are %v and %v: %w", t[0].Elem, t[i].Elem, ErrType)
		}
	}
	past := 0
	for i := 1; i <= 2; i++ {
		p := c.in(3 + i)
		if p == nil {
			continue
		}
		var err error
		if len(p.Shape) != 4 {
			return nil, fmt.Errorf("cache of shape %v: %w", p.Shape, ErrShape)
		}
		past = p.Shape[2]
		if t[i], err = Concat([]*T{p, t[i]}, 2); err != nil {
			return nil, err
		}
	}
	q, k, v := t[0], t[1], t[2]
	a := attn{c: c, b: q.Shape[0], heads: q.Shape[1], sq: q.Shape[2], d: q.Shape[3], kv: k.Shape[1], sk: k.Shape[2], dv: v.Shape[3], past: past}
	if k.Shape[0] != a.b || v.Shape[0] != a.b || k.Shape[3] != a.d || v.Shape[1] != a.kv || v.Shape[2] != a.sk || a.kv == 0 || a.heads%a.kv != 0 {
		return nil, fmt.Errorf("q %v, k %v, v %v: %w", q.Shape, k.Shape, v.Shape, ErrShape)
	}
	if err := a.masks(); err != nil {
		return nil, err
	}
	y, qk, err := a.run(q, k, v)
	if err != nil {
		return nil, err
	}
	if len(c.In[0].Shape) == 3 {
		if y, err = Transpose(y, []int{0, 2, 1, 3}); err != nil {
			return nil, err
		}
		y = reshaped(y, a.b, a.sq, a.heads*a.dv)
	}
	return []*T{y, k, v, qk}, nil
}

type attn struct {
	c                                 *Call
	b, heads, kv, sq, sk, d, dv, past int
	bias                              func(b, h, i, j int) float64 // of the mask
	valid                             []int                        // keys of each item that are no padding; nil: all
}

func (a *attn) masks() error {
	a.bias = func(b, h, i, j int) float64 { return 0 }
	if m := a.c.in(3); m != nil {
		get, err := reader(m)
		if err != nil {
			return err
		}
		n := len(m.Shape)
		if n == 0 {
			return fmt.Errorf("mask of shape %v: %w", m.Shape, ErrShape)
		}
		w := m.Shape[n-1]
		full := append(append([]int(nil), m.Shape[:n-1]...), max(w, a.sk))
		if w == 1 {
			full[n-1] = 1
		}
		if s, err := broadcast(full, []int{a.b, a.heads, a.sq, a.sk}); err != nil || product(s) != a.b*a.heads*a.sq*a.sk {
			return fmt.Errorf("mask %v of scores %v: %w", m.Shape, []int{a.b, a.heads, a.sq, a.sk}, ErrShape)
		}
		st := stretch(m.Shape, []int{a.b, a.heads, a.sq, a.sk})
		boolean := m.Elem == model.ElemBool
		a.bias = func(b, h, i, j int) float64 {
			if j >= w && w != 1 {
				return math.Inf(-1)
			}
			x := get(b*st[0] + h*st[1] + i*st[2] + j*st[3])
			if boolean && x == 0 {
				return math.Inf(-1)
			} else if boolean {
				return 0
			}
			return x
		}
	}
	var err error
	if a.valid, err = a.c.intsIn(6); err == nil && a.valid != nil && len(a.valid) != a.b {
		err = fmt.Errorf("%d lengths of %d items: %w", len(a.valid), a.b, ErrShape)
	}
	return err
}

func (a *attn) run(q, k, v *T) (y, qk *T, err error) {
	c := a.c
	var in [3][]float32
	for i, t := range []*T{q, k, v} {
		if in[i], err = asFloats(t); err != nil {
			return nil, nil, err
		}
	}
	out, o, err := newF32(a.b, a.heads, a.sq, a.dv)
	if err != nil {
		return nil, nil, err
	}
	scores, s, err := newF32(a.b, a.heads, a.sq, a.sk)
	if err != nil {
		return nil, nil, err
	}
	scale := c.float("scale", 0)
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(a.d))
	}
	causal, capAt, mode := c.int("is_causal", 0) != 0, c.float("softcap", 0), c.int("qk_matmul_output_mode", 0)
	left, right := c.int("left_window_size", -1), c.int("right_window_size", -1)
	row := make([]float64, a.sk)
	acc := make([]float64, a.dv)
	for b := range a.b {
		offset := a.past
		if a.past == 0 && c.in(4) == nil && a.valid != nil {
			offset = a.valid[b] - a.sq
		}
		for h := range a.heads {
			kvh := b*a.kv + h/(a.heads/a.kv)
			for i := range a.sq {
				qr := in[0][((b*a.heads+h)*a.sq+i)*a.d:][:a.d]
				dst := s[((b*a.heads+h)*a.sq+i)*a.sk:][:a.sk]
				seen := false
				for j := range a.sk {
					dot := 0.0
					for e, x := range in[1][(kvh*a.sk+j)*a.d:][:a.d] {
						dot += float64(x) * float64(qr[e])
					}
					dot *= scale
					if mode == 0 {
						dst[j] = float32(dot)
					}
					if capAt > 0 {
						dot = math.Tanh(dot/capAt) * capAt
					}
					if mode == 1 {
						dst[j] = float32(dot)
					}
					bias := a.bias(b, h, i, j)
					p := i + offset
					if causal && j > p || left >= 0 && p-j > left || right >= 0 && j-p > right || a.valid != nil && j >= a.valid[b] {
						bias = math.Inf(-1)
					}
					if !math.IsInf(bias, -1) {
						seen = true
					}
					row[j] = dot + bias
					if math.IsInf(bias, -1) {
						row[j] = bias // also where the score itself is not finite
					}
					if mode == 2 {
						dst[j] = float32(row[j])
					}
				}
				if seen {
					softmaxRow(row, "Softmax")
				} else {
					clear(row)
				}
				clear(acc)
				for j, p := range row {
					if mode == 3 {
						dst[j] = float32(p)
					}
					if p == 0 {
						continue
					}
					for e, x := range in[2][(kvh*a.sk+j)*a.dv:][:a.dv] {
						acc[e] += p * float64(x)
					}
				}
				for e, x := range acc {
					o[((b*a.heads+h)*a.sq+i)*a.dv+e] = float32(x)
				}
			}
		}
	}
	if y, err = Cast(out, q.Elem, true); err != nil {
		return nil, nil, err
	}
	qk, err = Cast(scores, q.Elem, true)
	return y, qk, err
}

// rotary rotates pairs of columns of every head by the angles whose cosines and
// sines are given: halves of the head, or neighbours where interleaved.
func rotary(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	ct, err := c.tensor(1)
	if err != nil {
		return nil, err
	}
	st, err := c.tensor(2)
	if err != nil {
		return nil, err
	}
	t, err := heads(x, c.int("num_heads", 0))
	if err != nil {
		return nil, err
	}
	b, nh, seq, d := t.Shape[0], t.Shape[1], t.Shape[2], t.Shape[3]
	dim := c.int("rotary_embedding_dim", 0)
	if dim == 0 {
		dim = d
	}
	half := dim / 2
	if dim < 0 || dim > d || dim%2 != 0 || len(ct.Shape) < 2 || ct.Shape[len(ct.Shape)-1] != half || product(st.Shape) != product(ct.Shape) {
		return nil, fmt.Errorf("rotation of %v: %d columns, cos %v, sin %v: %w", x.Shape, dim, ct.Shape, st.Shape, ErrShape)
	}
	cs, err := asFloats(ct)
	if err != nil {
		return nil, err
	}
	sn, err := asFloats(st)
	if err != nil {
		return nil, err
	}
	pos, err := c.intsIn(3)
	if err != nil {
		return nil, err
	}
	limit := ct.Len() / max(1, half)
	if pos != nil && len(pos) != b*seq || pos == nil && limit != b*seq {
		return nil, fmt.Errorf("positions of %d tokens, cos %v: %w", b*seq, ct.Shape, ErrShape)
	}
	in, err := asFloats(t)
	if err != nil {
		return nil, err
	}
	out, o, err := newF32(t.Shape...)
	if err != nil {
		return nil, err
	}
	copy(o, in)
	inter := c.int("interleaved", 0) != 0
	for r := range b * nh * seq {
		p := r/(nh*seq)*seq + r%seq
		if pos != nil {
			p = pos[p]
		}
		if p < 0 || p >= limit {
			return nil, fmt.Errorf("position %d of %d: %w", p, limit, ErrShape)
		}
		src, dst := in[r*d:(r+1)*d], o[r*d:(r+1)*d]
		for i := range half {
			i0, i1 := i, i+half
			if inter {
				i0, i1 = 2*i, 2*i+1
			}
			u, v, cv, sv := src[i0], src[i1], cs[p*half+i], sn[p*half+i]
			dst[i0], dst[i1] = cv*u-sv*v, sv*u+cv*v
		}
	}
	if len(x.Shape) == 3 {
		if out, err = Transpose(out, []int{0, 2, 1, 3}); err != nil {
			return nil, err
		}
		out = reshaped(out, x.Shape...)
	}
	return []*T{out}, nil
}
