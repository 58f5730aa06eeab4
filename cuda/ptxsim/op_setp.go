package ptxsim

import (
	"math"
	"math/bits"
	"slices"
)

var comparisons = []string{"eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs",
	"equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"}

// compareInt compares values widened by their type.
func compareInt(op string, t dtype, x, y uint64) bool {
	less, equal := x < y, x == y
	if t.signed() {
		less = int64(x) < int64(y)
	}
	switch op {
	case "eq":
		return equal
	case "ne":
		return !equal
	case "lt", "lo":
		return less
	case "le", "ls":
		return less || equal
	case "gt", "hi":
		return !less && !equal
	}
	return !less // ge, hs
}

// compareFloat: ordered forms are false with a NaN, unordered (..u) ones true.
func compareFloat(op string, x, y float64) bool {
	nan := x != x || y != y
	switch op {
	case "num":
		return !nan
	case "nan":
		return nan
	}
	if nan {
		return len(op) == 3
	}
	switch op[:2] {
	case "eq":
		return x == y
	case "ne":
		return x != y
	case "lt":
		return x < y
	case "le":
		return x <= y
	case "gt":
		return x > y
	}
	return x >= y
}

// comparison is a decoded setp or set: compare, then combine with a predicate.
type comparison struct {
	op      string
	boolOp  string
	ftz     bool
	types   []dtype
	combine predSlot
	hasPred bool
}

func (b *builder) comparison(st *statement) comparison {
	c := comparison{}
	for _, m := range st.mods {
		t, isType := dtypeByName[m]
		switch {
		case slices.Contains(comparisons, m) && c.op == "":
			c.op = m
		case m == "and" || m == "or" || m == "xor":
			c.boolOp = m
		case m == "ftz":
			c.ftz = true
		case isType:
			c.types = append(c.types, t)
		default:
			panic(b.unsupported("suffix .%s", m))
		}
	}
	if c.op == "" {
		panic(b.unsupported("no comparison"))
	}
	if c.boolOp != "" {
		c.combine = b.pred(st.args[len(st.args)-1])
		c.hasPred = true
	}
	return c
}

func (c *comparison) join(w *warp, r, m uint32) uint32 {
	switch c.boolOp {
	case "and":
		return r & c.combine.get(w, m)
	case "or":
		return r | c.combine.get(w, m)
	case "xor":
		return r ^ c.combine.get(w, m)
	}
	return r
}

// mask compares all lanes of x and y, of type t (for x2 types, half h).
func (c *comparison) mask(w *warp, x, y slot, t dtype, h int, m uint32) uint32 {
	x.check(w, m)
	y.check(w, m)
	var r uint32
	e := t
	if t == tF16x2 || t == tBF16x2 {
		e = halfOf(t)
	}
	for i := 0; i < 32; i++ {
		p, q := x.get(w, i)>>(16*h), y.get(w, i)>>(16*h)
		var ok bool
		if e.float() {
			ok = compareFloat(c.op, decodeFloat(ftzIn(p&sizeMask(e), e, c.ftz), e), decodeFloat(ftzIn(q&sizeMask(e), e, c.ftz), e))
		} else {
			ok = compareInt(c.op, t, p, q)
		}
		if ok {
			r |= 1 << i
		}
	}
	return r
}

func decodeSetp(b *builder, st *statement) execFn {
	if len(st.args) != 3 && len(st.args) != 4 {
		panic(b.unsupported("%d operands", len(st.args)))
	}
	c := b.comparison(st)
	if len(c.types) != 1 {
		panic(b.unsupported("%d types", len(c.types)))
	}
	t := c.types[0]
	x := b.strict(st.args[1], t)
	y := b.strict(st.args[2], t)
	d, d2 := st.args[0], operand{kind: argSink}
	if d.kind == argPair {
		d, d2 = d.list[0], d.list[1]
	}
	p := b.pred(d)
	q := b.pred(d2)
	if t == tF16x2 || t == tBF16x2 { // p and q are the two halves
		return func(w *warp, m uint32) {
			lo, hi := c.mask(w, x, y, t, 0, m), c.mask(w, x, y, t, 1, m)
			w.setPred(p.i, c.join(w, lo, m), m)
			w.setPred(q.i, c.join(w, hi, m), m)
		}
	}
	if f := fastCompare(c.op, t); f != nil && !c.ftz && !c.hasPred && d2.kind == argSink {
		return func(w *warp, m uint32) {
			w.setPred(p.i, f(w.in32(x.i, m), w.in32(y.i, m)), m)
		}
	}
	return func(w *warp, m uint32) {
		r := c.mask(w, x, y, t, 0, m)
		joined := c.join(w, r, m)
		other := c.join(w, ^r, m)
		w.setPred(p.i, joined, m)
		w.setPred(q.i, other, m)
	}
}

// fastCompare has loops of their own for the comparisons of loop heads.
func fastCompare(op string, t dtype) func(p, q *lanes32) uint32 {
	bit := func(ok bool, i int) uint32 {
		if ok {
			return 1 << i
		}
		return 0
	}
	switch {
	case t.size() != 4 || t == tF16x2 || t == tBF16x2:
		return nil
	case t == tF32 && op == "lt":
		return func(p, q *lanes32) (r uint32) {
			for i := range p {
				r |= bit(math.Float32frombits(p[i]) < math.Float32frombits(q[i]), i)
			}
			return
		}
	case t == tF32 && op == "gt":
		return func(p, q *lanes32) (r uint32) {
			for i := range p {
				r |= bit(math.Float32frombits(p[i]) > math.Float32frombits(q[i]), i)
			}
			return
		}
	case t == tF32:
		return nil
	case op == "eq" || op == "ne":
		flip := bit(op == "ne", 0) * full
		return func(p, q *lanes32) (r uint32) {
			for i := range p {
				r |= bit(p[i] == q[i], i)
			}
			return r ^ flip
		}
	case t.signed() && (op == "lt" || op == "ge"):
		flip := bit(op == "ge", 0) * full
		return func(p, q *lanes32) (r uint32) {
			for i := range p {
				r |= bit(int32(p[i]) < int32(q[i]), i)
			}
			return r ^ flip
		}
	case t.signed() && (op == "gt" || op == "le"):
		flip := bit(op == "le", 0) * full
		return func(p, q *lanes32) (r uint32) {
			for i := range p {
				r |= bit(int32(p[i]) > int32(q[i]), i)
			}
			return r ^ flip
		}
	case !t.signed() && (op == "lt" || op == "ge" || op == "lo" || op == "hs"):
		flip := bit(op == "ge" || op == "hs", 0) * full
		return func(p, q *lanes32) (r uint32) {
			for i := range p {
				r |= bit(p[i] < q[i], i)
			}
			return r ^ flip
		}
	case !t.signed() && (op == "gt" || op == "le" || op == "hi" || op == "ls"):
		flip := bit(op == "le" || op == "ls", 0) * full
		return func(p, q *lanes32) (r uint32) {
			for i := range p {
				r |= bit(p[i] > q[i], i)
			}
			return r ^ flip
		}
	}
	return nil
}

// decodeSet writes 1.0 or all ones where the comparison holds.
func decodeSet(b *builder, st *statement) execFn {
	if len(st.args) != 3 && len(st.args) != 4 {
		panic(b.unsupported("%d operands", len(st.args)))
	}
	c := b.comparison(st)
	if len(c.types) != 2 {
		panic(b.unsupported("%d types", len(c.types)))
	}
	dt, t := c.types[0], c.types[1]
	d := b.strictDst(st.args[0], dt)
	x := b.strict(st.args[1], t)
	y := b.strict(st.args[2], t)
	packed := t == tF16x2 || t == tBF16x2
	yes := sizeMask(dt)
	switch dt {
	case tF16, tBF16, tF32, tF64:
		yes = encodeFloat(1, dt, roundNearest, false)
	case tF16x2, tBF16x2:
		yes = encodeFloat(1, halfOf(dt), roundNearest, false)
	default:
		if packed {
			yes = 0xffff
		}
	}
	return func(w *warp, m uint32) {
		lo := c.join(w, c.mask(w, x, y, t, 0, m), m)
		var hi uint32
		if packed {
			hi = c.join(w, c.mask(w, x, y, t, 1, m), m)
		}
		for ; m != 0; m &= m - 1 {
			i := bits.TrailingZeros32(m)
			d.set(w, i, uint64(lo>>i&1)*yes|uint64(hi>>i&1)*yes<<16)
		}
	}
}
