// Package ptxsim executes PTX, as nvcc emits it, on the CPU: the tests' GPU.
//
//	d := ptxsim.NewDevice(ptxsim.Config{Seed: 1, Stats: true})
//	m, err := d.Load(ptxText)                  // unknown opcodes are errors with their line
//	k, err := m.Kernel("spmm_nm24_f16_n64")
//	p, err := d.Alloc(bytes)                   // fresh memory is 0xff: NaN
//	err = d.HtoD(p, host)
//	err = d.Launch(k, ptxsim.Dim3{X: 4}, ptxsim.Dim3{X: 128}, shared, p, int32(n), float32(eps))
//	var f *ptxsim.Fault                        // what went wrong, at which line and thread
//	errors.As(err, &f)
//
// # How it works
//
// A text is parsed (lexer.go, parse*.go), then each instruction is decoded once
// into a closure over register slots (decode.go, opcodes.go, op_*.go). A register
// is 32 values side by side, one a lane, and a mask of the lanes that were ever
// written. A warp runs the group of lanes with the lowest pc; lanes that branched
// forward wait, and groups that meet become one (sched.go). An instruction that
// needs the whole warp (.aligned) or its member mask (.sync) waits for the missing
// lanes as long as they can still come. Warps of a block take turns in an order
// drawn from Config.Seed; blocks run on as many goroutines as Config.Workers.
//
// # What is a fault
//
//   - an access out of bounds (allocations end exactly where they were asked to,
//     with unmapped memory behind) or not aligned to its size;
//   - use of a register, or read of shared memory, that was never written; mov and
//     selp only carry the poison on;
//   - a race in shared memory: two accesses of different warps, one a write, with
//     no barrier that orders them, found by the clocks of happens-before whatever
//     order the warps took (shared.go); and between lanes of a warp a read of what
//     another lane wrote without bar.warp.sync;
//   - any touch of a cp.async destination before the copy was waited for: copies
//     are performed at the wait, the last moment the hardware has, and their
//     destination counts as written when they are issued, the first moment;
//   - divergence at an aligned instruction, a barrier nobody else comes to, shfl
//     from a lane that does not take part, illegal 2:4 metadata in a lane that the
//     selector chose (others are never looked at);
//   - more than Config.MaxInstructions in a block.
//
// A Fault wraps the driver's Result and is sticky, as a driver's is, until Reset.
// Races between blocks in global memory are not tracked; under `go test -race`
// Go's own detector reports them, since blocks are goroutines.
//
// # For a driver interface
//
// Device, Module, Kernel, Stream, Event, Graph and GraphExec have the methods that
// a seam over a CUDA driver wants; errors carry a Result (ResultOf) with the
// driver's numbers and names; FailOn and ParseFaults plan failures of the n-th
// call. Folder libcuda puts the same device behind the C functions of
// libcuda.so.1, so that a program linked against -lcuda runs without a GPU.
//
// # For gates and for testing tests
//
// With Config.Stats a launch counts warp instructions by opcode, global sectors
// of 32 bytes, and for every instruction that touches shared memory the bank
// conflict degree (Stats.MaxDegree is 1 if there is none). RunMutants changes a
// kernel's PTX in small ways and reports which changes a test does not notice.
//
// # Caveats
//
//   - It proves function at the level of PTX. It says nothing about speed, about
//     what ptxas makes of the text, or about the driver.
//   - mma sums in float64 and rounds once; the hardware's order and rounding are
//     unspecified. Approximate functions (ex2, rsqrt, ...) are exact to the last bit.
//   - Memory is sequentially consistent in a block: a missing fence is not noticed.
//   - Lanes with the lowest pc go first, so a lane that spins until a lane behind it
//     acts never ends (the budget does).
//   - Not modelled: wgmma, tcgen05, TMA, mbarrier, clusters, textures, calls, carry
//     chains, 128-bit registers, mma of f64, int4 and 1-bit types, sparse tf32.
package ptxsim
