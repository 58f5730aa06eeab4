package ptxsim

// decoders is every opcode the simulator knows, apart from control flow
// (bra, brx, ret, exit, bar, barrier), which the scheduler handles.
var decoders = map[string]decoder{
	// integers
	"add": decodeAddSub, "sub": decodeAddSub, "mul": decodeMul, "mad": decodeMad,
	"div": decodeDiv, "rem": decodeDiv, "min": decodeMinMax, "max": decodeMinMax,
	"neg": decodeNegAbs, "abs": decodeNegAbs, "mul24": decodeMul24, "mad24": decodeMul24,
	"sad": decodeSad, "dp4a": decodeDp, "dp2a": decodeDp,
	// bits
	"and": decodeLogic, "or": decodeLogic, "xor": decodeLogic, "not": decodeNot, "cnot": decodeNot,
	"shl": decodeShift, "shr": decodeShift, "shf": decodeFunnel, "bfe": decodeBfe, "bfi": decodeBfi,
	"bfind": decodeBfind, "popc": decodeCount, "clz": decodeCount, "brev": decodeCount,
	"prmt": decodePrmt, "lop3": decodeLop3, "bmsk": decodeBmsk,
	// floats
	"fma": decodeFma, "ex2": decodeApprox, "lg2": decodeApprox, "rcp": decodeApprox, "sqrt": decodeApprox,
	"rsqrt": decodeApprox, "sin": decodeApprox, "cos": decodeApprox, "tanh": decodeApprox,
	"copysign": decodeCopysign, "testp": decodeTestp,
	// movement and comparison
	"mov": decodeMov, "selp": decodeSelp, "slct": decodeSlct, "setp": decodeSetp, "set": decodeSet,
	"cvt": decodeCvt, "cvta": decodeCvta, "isspacep": decodeIsspacep,
	// memory
	"ld": decodeLd, "ldu": decodeLd, "st": decodeSt, "atom": decodeAtom, "red": decodeAtom,
	"cp": decodeCp, "ldmatrix": decodeLdmatrix, "stmatrix": decodeStmatrix, "movmatrix": decodeMovmatrix,
	// warps
	"shfl": decodeShfl, "vote": decodeVote, "match": decodeMatch, "redux": decodeRedux,
	"activemask": decodeActivemask, "elect": decodeElect, "mma": decodeMma,
	// hints and orderings, which an in-order machine keeps anyway
	"membar": decodeNothing, "fence": decodeNothing, "nanosleep": decodeNothing, "griddepcontrol": decodeNothing,
	"prefetch": decodeNothing, "prefetchu": decodeNothing, "applypriority": decodeNothing,
	"createpolicy": decodePolicy, "pmevent": decodeNothing, "brkpt": decodeNothing, "setmaxnreg": decodeNothing,
	"trap": decodeTrap,
}

// decodePolicy gives createpolicy a value, for what it is worth.
func decodePolicy(b *builder, st *statement) execFn {
	if len(st.args) == 0 {
		panic(b.unsupported("no operand"))
	}
	d := b.strictDst(st.args[0], tB64)
	return func(w *warp, m uint32) {
		o := w.out64(d.i, m)
		*o = lanes64{}
		w.put64(d.i, m)
	}
}
