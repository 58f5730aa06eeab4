package ptxsim

import "fmt"

// FaultKind names what went wrong in a kernel, finer than the driver's numbers.
type FaultKind string

// Kinds of Fault.
const (
	KindBounds       FaultKind = "out of bounds"
	KindAlignment    FaultKind = "misaligned"
	KindPoison       FaultKind = "read of an uninitialised register"
	KindUninitShared FaultKind = "read of uninitialised shared memory"
	KindRace         FaultKind = "shared memory race"
	KindInFlight     FaultKind = "access to a cp.async destination in flight"
	KindDivergence   FaultKind = "divergent at an aligned instruction"
	KindDeadlock     FaultKind = "barrier deadlock"
	KindBudget       FaultKind = "instruction budget used up"
	KindMetadata     FaultKind = "illegal sparsity metadata"
	KindOperand      FaultKind = "illegal operand"
	KindTrap         FaultKind = "trap"
	KindInternal     FaultKind = "internal error of the simulator"
)

// Fault is an error of a running kernel. It names the first one met.
type Fault struct {
	Result Result // what a driver would report
	Kind   FaultKind
	Kernel string
	Block  Dim3
	Thread Dim3
	Line   int // of the PTX text
	Opcode string
	Detail string
}

func (f *Fault) Error() string {
	return fmt.Sprintf("%s: line %d: %s: block %v thread %v: %s: %s (%s)",
		f.Kernel, f.Line, f.Opcode, f.Block, f.Thread, f.Kind, f.Detail, f.Result.Name())
}

func (f *Fault) Unwrap() error { return f.Result }

// faultPanic carries a Fault from an instruction to the block that runs it; it
// never leaves the package.
type faultPanic struct{ f *Fault }

var kindResult = map[FaultKind]Result{
	KindBounds: ErrIllegalAddress, KindAlignment: ErrMisalignedAddress,
	KindBudget: ErrLaunchTimeout, KindMetadata: ErrIllegalInstruction,
	KindOperand: ErrIllegalInstruction, KindTrap: ErrLaunchFailed,
}

// fail reports a fault of lane (or of the whole warp, lane < 0) and does not return.
func (w *warp) fail(kind FaultKind, lane int, format string, a ...any) {
	res, ok := kindResult[kind]
	if !ok {
		res = ErrLaunchFailed
	}
	if lane < 0 {
		lane = firstLane(w.mask)
	}
	in := w.at()
	panic(faultPanic{&Fault{
		Result: res, Kind: kind, Kernel: w.blk.k.name, Block: w.blk.idx,
		Thread: w.blk.threadDim(w.id*32 + lane), Line: in.line, Opcode: in.opcode,
		Detail: fmt.Sprintf(format, a...),
	}})
}
