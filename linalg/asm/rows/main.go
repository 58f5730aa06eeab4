// Command rows writes linalg/rows_amd64.s: kernels over one or two vectors, each in
// AVX2 (with FMA and F16C) and AVX-512 from one description. The last n mod 8 or 16
// elements are loaded and stored under a mask, so that an element's value does not
// depend on where it lies.
package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// isa is a vector width; tail is set while the masked remainder is emitted.
type isa struct {
	wide bool // AVX-512
	tail bool
	k    OpmaskVirtual // AVX-512's mask
	m    VecVirtual    // AVX2's mask
}

func (v *isa) suffix() string {
	if v.wide {
		return "AVX512"
	}
	return "AVX2"
}

func (v *isa) bytes() int {
	if v.wide {
		return 64
	}
	return 32
}

func (v *isa) lanes() int { return v.bytes() / 4 }

func (v *isa) reg() VecVirtual {
	if v.wide {
		return ZMM()
	}
	return YMM()
}

func (v *isa) zero() VecVirtual {
	r := v.reg()
	if v.wide {
		VPXORD(r, r, r)
	} else {
		VXORPS(r, r, r)
	}
	return r
}

// load reads a vector of float32; lanes beyond the end are zero.
func (v *isa) load(m Mem) VecVirtual {
	r := v.reg()
	switch {
	case !v.tail:
		VMOVUPS(m, r)
	case v.wide:
		VMOVUPS_Z(m, v.k, r)
	default:
		VMASKMOVPS(m, v.m, r)
	}
	return r
}

func (v *isa) store(r VecVirtual, m Mem) {
	switch {
	case !v.tail:
		VMOVUPS(r, m)
	case v.wide:
		VMOVUPS(r, v.k, m)
	default:
		VMASKMOVPS(r, v.m, m)
	}
}

// clearTail zeroes the lanes beyond the end.
func (v *isa) clearTail(r VecVirtual) {
	switch {
	case !v.tail:
	case v.wide:
		VMOVAPS_Z(r, v.k, r)
	default:
		VANDPS(v.m, r, r)
	}
}

// broadcastParam loads a float32 argument into all lanes.
func (v *isa) broadcastParam(name string) VecVirtual {
	addr, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	r := v.reg()
	VBROADCASTSS(addr.Addr, r)
	return r
}

// sum adds the lanes of r: halves first, always in the same tree.
func (v *isa) sum(r VecVirtual) Register {
	return v.reduce(r, func(a, b, dst Op) { VADDPS(a, b, dst) })
}

func (v *isa) reduce(r VecVirtual, op func(a, b, dst Op)) Register {
	y := r.AsY()
	if v.wide {
		h := YMM()
		VEXTRACTF64X4(Imm(1), r, h)
		op(h, y, y)
	}
	x := XMM()
	VEXTRACTF128(Imm(1), y, x)
	op(x, r.AsX(), x)
	t := XMM()
	VMOVHLPS(x, x, t)
	op(t, x, x)
	VMOVSHDUP(x, t)
	op(t, x, x)
	return x
}

// loop emits body once over whole vectors and once over the masked rest. pointers
// are advanced by their step in bytes per lane.
func (v *isa) loop(n GPVirtual, pointers []GPVirtual, step []int, body func()) {
	Label("loop")
	CMPQ(n, Imm(uint64(v.lanes())))
	JL(LabelRef("tail"))
	v.tail = false
	body()
	for i, p := range pointers {
		ADDQ(Imm(uint64(step[i]*v.lanes())), p)
	}
	SUBQ(Imm(uint64(v.lanes())), n)
	JMP(LabelRef("loop"))
	Label("tail")
	TESTQ(n, n)
	JLE(LabelRef("done"))
	v.tail = true
	if v.wide {
		// Shift counts are in CX; 2^n - 1 has a bit for every element left.
		bitsLeft := GP64()
		MOVQ(n, RCX)
		MOVQ(U32(1), bitsLeft)
		SHLQ(CL, bitsLeft)
		DECQ(bitsLeft)
		v.k = K()
		KMOVW(bitsLeft.As32(), v.k)
	} else {
		base := GP64()
		LEAQ(masks.Offset(32), base)
		SHLQ(Imm(2), n)
		SUBQ(n, base)
		v.m = YMM()
		VMOVUPS(Mem{Base: base}, v.m)
	}
	body()
	v.tail = false
	Label("done")
}

// masks holds 8 dwords of ones, then 8 of zeros.
var masks Mem

// constants of the polynomials, each repeated over a 64-byte vector.
var constants = map[string]Mem{}

func constant(name string, bits uint32) {
	m := GLOBL(name, RODATA|NOPTR)
	for i := range 16 {
		DATA(4*i, U32(bits))
	}
	constants[name] = m
}

func float(name string, f float32) { constant(name, math.Float32bits(f)) }

func main() {
	ConstraintExpr("amd64")
	masks = GLOBL("tailMasks", RODATA|NOPTR)
	for i := range 16 {
		m := uint32(0)
		if i < 8 {
			m = math.MaxUint32
		}
		DATA(4*i, U32(m))
	}
	// exp: Cephes expf (Moshier): range reduction by ln 2 in two parts, degree 5.
	float("expHi", 88.3762626647949)
	float("expLo", -87.33654)
	float("log2e", 1.44269504088896341)
	float("ln2Hi", 0.693359375)
	float("ln2Lo", -2.12194440e-4)
	for i, c := range []float32{1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1} {
		float(fmt.Sprintf("expP%d", i), c)
	}
	float("one", 1)
	float("half", 0.5)
	constant("bias127", 127)
	constant("signBit", 1<<31)
	constant("absMask", 1<<31-1)
	// GELU, tanh form: x*sigmoid(2*sqrt(2/pi)*(x + 0.044715*x^3)).
	float("geluC", 0.044715)
	float("geluS", -2*0.7978845608028654)
	// erf: Abramowitz and Stegun 7.1.26, |error| < 1.5e-7.
	float("erfP", 0.3275911)
	for i, c := range []float32{1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592} {
		float(fmt.Sprintf("erfA%d", i), c)
	}
	float("rsqrt2", math.Sqrt2/2)
	float("negInf", float32(math.Inf(-1)))
	for _, v := range []*isa{{wide: false}, {wide: true}} {
		v.dot()
		v.axpy()
		v.max()
		v.expSum()
		v.rotate()
		v.convert()
		v.binary("add", "z = x + y", func(x, y, _ VecVirtual) VecVirtual { VADDPS(y, x, x); return x })
		v.binary("mul", "z = x * y", func(x, y, _ VecVirtual) VecVirtual { VMULPS(y, x, x); return x })
		v.binary("scaleMul", "z = a * x * y", func(x, y, a VecVirtual) VecVirtual {
			VMULPS(a, x, x)
			VMULPS(y, x, x)
			return x
		})
		v.binary("siluGate", "z = x * sigmoid(x) * y", func(x, y, _ VecVirtual) VecVirtual {
			s := v.sigmoid(x)
			VMULPS(x, s, s)
			VMULPS(y, s, s)
			return s
		})
		v.unary("scale", "z = a * x", func(x, a VecVirtual) VecVirtual { VMULPS(a, x, x); return x })
		v.unary("sigmoid", "z = 1 / (1 + exp(-x))", func(x, _ VecVirtual) VecVirtual { return v.sigmoid(x) })
		v.unary("geluTanh", "z = x * sigmoid(2 * sqrt(2/pi) * (x + 0.044715 * x^3))", func(x, _ VecVirtual) VecVirtual {
			t := v.reg()
			VMULPS(x, x, t)
			VMULPS(x, t, t)
			VMULPS(constants["geluC"], t, t)
			VADDPS(x, t, t)
			VMULPS(constants["geluS"], t, t) // minus twice the argument of tanh
			s := v.logistic(t)
			VMULPS(x, s, s)
			return s
		})
		v.unary("geluErf", "z = max(x, 0) - |x| * erfc(|x|/sqrt(2)) / 2", v.geluErf)
	}
	Generate()
}

// params loads pointer arguments.
func params(names ...string) []GPVirtual {
	var out []GPVirtual
	for _, n := range names {
		out = append(out, Load(Param(n), GP64()).(GPVirtual))
	}
	return out
}

func (v *isa) text(name, signature, doc string) {
	TEXT(name+v.suffix(), NOSPLIT, signature)
	Pragma("noescape")
	Doc(name + v.suffix() + ": " + doc + " for n elements.")
}

func (v *isa) binary(name, doc string, f func(x, y, a VecVirtual) VecVirtual) {
	v.text(name, "func(n int, z, x, y *float32, a float32)", doc)
	p := params("n", "z", "x", "y")
	a := v.broadcastParam("a")
	v.loop(p[0], p[1:], []int{4, 4, 4}, func() {
		v.store(f(v.load(Mem{Base: p[2]}), v.load(Mem{Base: p[3]}), a), Mem{Base: p[1]})
	})
	VZEROUPPER()
	RET()
}

func (v *isa) unary(name, doc string, f func(x, a VecVirtual) VecVirtual) {
	v.text(name, "func(n int, z, x *float32, a float32)", doc)
	p := params("n", "z", "x")
	a := v.broadcastParam("a")
	v.loop(p[0], p[1:], []int{4, 4}, func() {
		v.store(f(v.load(Mem{Base: p[2]}), a), Mem{Base: p[1]})
	})
	VZEROUPPER()
	RET()
}

// exp returns e^x: 0 below -87.34, at most e^88.37, NaN for NaN.
func (v *isa) exp(x VecVirtual) VecVirtual {
	c := constants
	t, n, y, z := v.reg(), v.reg(), v.reg(), v.reg()
	// With x as the second source NaN passes through both.
	VMOVUPS(c["expHi"], t)
	VMINPS(x, t, t)
	VMOVUPS(c["expLo"], z)
	VMAXPS(t, z, t)
	VMULPS(c["log2e"], t, n)
	if v.wide {
		VRNDSCALEPS(Imm(8), n, n)
	} else {
		VROUNDPS(Imm(8), n, n)
	}
	VFNMADD231PS(c["ln2Hi"], n, t)
	VFNMADD231PS(c["ln2Lo"], n, t)
	VMULPS(t, t, z)
	VMOVUPS(c["expP0"], y)
	for i := 1; i < 6; i++ {
		VFMADD213PS(c[fmt.Sprintf("expP%d", i)], t, y)
	}
	VFMADD213PS(t, z, y)
	VADDPS(c["one"], y, y)
	VCVTPS2DQ(n, n)
	VPADDD(c["bias127"], n, n)
	VPSLLD(Imm(23), n, n)
	VMULPS(n, y, y)
	if v.wide {
		k := K()
		VCMPPS(Imm(5), c["expLo"], x, k) // not less: true for NaN
		VMOVAPS_Z(y, k, y)
	} else {
		VCMPPS(Imm(5), c["expLo"], x, z)
		VANDPS(z, y, y)
	}
	return y
}

// logistic returns 1/(1+exp(t)).
func (v *isa) logistic(t VecVirtual) VecVirtual {
	e := v.exp(t)
	VADDPS(constants["one"], e, e)
	o := v.reg()
	VMOVUPS(constants["one"], o)
	VDIVPS(e, o, o)
	return o
}

func (v *isa) sigmoid(x VecVirtual) VecVirtual {
	t := v.reg()
	if v.wide {
		VPXORD(constants["signBit"], x, t)
	} else {
		VXORPS(constants["signBit"], x, t)
	}
	return v.logistic(t)
}

func (v *isa) geluErf(x, _ VecVirtual) VecVirtual {
	c := constants
	ax, t, k, q := v.reg(), v.reg(), v.reg(), v.reg()
	if v.wide {
		VPANDD(c["absMask"], x, ax)
	} else {
		VANDPS(c["absMask"], x, ax)
	}
	VMULPS(c["rsqrt2"], ax, t)
	VMOVUPS(c["one"], k)
	VMOVUPS(c["one"], q)
	VFMADD231PS(c["erfP"], t, k)
	VDIVPS(k, q, k) // 1/(1+p*t)
	VMOVUPS(c["erfA0"], q)
	for i := 1; i < 5; i++ {
		VFMADD213PS(c[fmt.Sprintf("erfA%d", i)], k, q)
	}
	VMULPS(k, q, q)
	neg := v.zero()
	VFNMADD231PS(t, t, neg)
	e := v.exp(neg)
	VMULPS(e, q, q)
	VMULPS(c["half"], q, q)
	VMULPS(ax, q, q)
	z := v.zero()
	VMAXPS(x, z, z)
	VSUBPS(q, z, z)
	return z
}

func (v *isa) dot() {
	v.text("dot", "func(n int, x, y *float32) float32", "sum of x * y")
	p := params("n", "x", "y")
	n, x, y := p[0], p[1], p[2]
	acc := []VecVirtual{v.zero(), v.zero(), v.zero(), v.zero()}
	Label("four")
	CMPQ(n, Imm(uint64(4*v.lanes())))
	JL(LabelRef("loop"))
	for i, a := range acc {
		t := v.reg()
		VMOVUPS(Mem{Base: x, Disp: i * v.bytes()}, t)
		VFMADD231PS(Mem{Base: y, Disp: i * v.bytes()}, t, a)
	}
	ADDQ(U32(4*v.bytes()), x)
	ADDQ(U32(4*v.bytes()), y)
	SUBQ(Imm(uint64(4*v.lanes())), n)
	JMP(LabelRef("four"))
	v.loop(n, p[1:], []int{4, 4}, func() {
		a := v.load(Mem{Base: x})
		VFMADD231PS(v.load(Mem{Base: y}), a, acc[0])
	})
	VADDPS(acc[1], acc[0], acc[0])
	VADDPS(acc[3], acc[2], acc[2])
	VADDPS(acc[2], acc[0], acc[0])
	s := v.sum(acc[0])
	Store(s, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

func (v *isa) axpy() {
	v.text("axpy", "func(n int, a float32, x, y *float32)", "y += a * x")
	p := params("n", "x", "y")
	a := v.broadcastParam("a")
	v.loop(p[0], p[1:], []int{4, 4}, func() {
		y := v.load(Mem{Base: p[2]})
		VFMADD231PS(v.load(Mem{Base: p[1]}), a, y)
		v.store(y, Mem{Base: p[2]})
	})
	VZEROUPPER()
	RET()
}

func (v *isa) max() {
	v.text("max", "func(n int, x *float32) float32", "largest of x, -Inf of none")
	p := params("n", "x")
	best := v.reg()
	VMOVUPS(constants["negInf"], best)
	v.loop(p[0], p[1:], []int{4}, func() {
		x := v.load(Mem{Base: p[1]})
		if v.tail {
			low := v.reg()
			VMOVUPS(constants["negInf"], low)
			if v.wide {
				VMOVAPS(x, v.k, low)
				x = low
			} else {
				VBLENDVPS(v.m, x, low, x)
			}
		}
		VMAXPS(x, best, best)
	})
	s := v.reduce(best, func(a, b, dst Op) { VMAXPS(a, b, dst) })
	Store(s, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

func (v *isa) expSum() {
	v.text("expSum", "func(n int, z, x *float32, shift float32) float32", "z = exp(x - shift); returns the sum of z")
	p := params("n", "z", "x")
	shift := v.broadcastParam("shift")
	acc := v.zero()
	v.loop(p[0], p[1:], []int{4, 4}, func() {
		x := v.load(Mem{Base: p[2]})
		VSUBPS(shift, x, x)
		e := v.exp(x)
		v.clearTail(e)
		VADDPS(e, acc, acc)
		v.store(e, Mem{Base: p[1]})
	})
	s := v.sum(acc)
	Store(s, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

func (v *isa) rotate() {
	v.text("rotate", "func(n int, x, y, cos, sin *float32)", "x, y = x*cos - y*sin, y*cos + x*sin")
	p := params("n", "x", "y", "cos", "sin")
	v.loop(p[0], p[1:], []int{4, 4, 4, 4}, func() {
		x, y := v.load(Mem{Base: p[1]}), v.load(Mem{Base: p[2]})
		c, s := v.load(Mem{Base: p[3]}), v.load(Mem{Base: p[4]})
		u, w := v.reg(), v.reg()
		VMULPS(s, y, u)
		VMULPS(s, x, w)
		VFMSUB231PS(c, x, u) // x*c - y*s
		VFMADD231PS(c, y, w)
		v.store(u, Mem{Base: p[1]})
		v.store(w, Mem{Base: p[2]})
	})
	VZEROUPPER()
	RET()
}

// convert emits the half precision conversions; n is a multiple of the lanes, the
// caller does the rest (there are no masked 16-bit moves in AVX2).
func (v *isa) convert() {
	whole := func(name, signature, doc, from, to string, in, out int, body func(src, dst Mem)) {
		v.text(name, signature, doc+", n a multiple of "+fmt.Sprint(v.lanes()))
		p := params("n", to, from)
		Label("loop")
		CMPQ(p[0], Imm(uint64(v.lanes())))
		JL(LabelRef("done"))
		body(Mem{Base: p[2]}, Mem{Base: p[1]})
		ADDQ(Imm(uint64(out*v.lanes())), p[1])
		ADDQ(Imm(uint64(in*v.lanes())), p[2])
		SUBQ(Imm(uint64(v.lanes())), p[0])
		JMP(LabelRef("loop"))
		Label("done")
		VZEROUPPER()
		RET()
	}
	whole("f16ToF32", "func(n int, dst *float32, src *uint16)", "dst = src", "src", "dst", 2, 4, func(src, dst Mem) {
		r := v.reg()
		VCVTPH2PS(src, r)
		VMOVUPS(r, dst)
	})
	whole("bf16ToF32", "func(n int, dst *float32, src *uint16)", "dst = src", "src", "dst", 2, 4, func(src, dst Mem) {
		r := v.reg()
		VPMOVZXWD(src, r)
		VPSLLD(Imm(16), r, r)
		VMOVUPS(r, dst)
	})
	whole("f32ToF16", "func(n int, dst *uint16, src *float32)", "dst = src, rounded to nearest even", "src", "dst", 4, 2, func(src, dst Mem) {
		r := v.reg()
		VMOVUPS(src, r)
		VCVTPS2PH(Imm(0), r, dst)
	})
}
