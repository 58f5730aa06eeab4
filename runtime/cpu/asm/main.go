// Command asm writes the assembly of the CPU backend's Linear kernels.
//
// All of them keep rows of the weight in the lanes of vector registers and
// broadcast activations: out[t*ld+r] += sum_c W[r,c]*x[t,c] for a block of two
// vectors of rows (32 with AVX-512, 16 with AVX2) and w tokens. There is no
// horizontal sum, the weight is one sequential stream, and the same packed form
// serves decode (w = 1) and prefill (w = 4 or 8).
//
// The forms of weights, activations and arguments are written out in
// runtime/cpu/tile.go; -stem names the kernel family to write.
package main

import (
	"flag"
	"log"

	. "github.com/mmcloughlin/avo/build"
)

var stem = flag.String("stem", "", "kernel family: gemv_dense, gemv_int8, gemv_int4, spmm_nm24, spmm_nm24_int8, spmm_nm24_int4, bitmask, unpack, quant, csr, csr_batch, stream, tile_run")

func main() {
	flag.Parse()
	ConstraintExpr("amd64")
	families := map[string]func(){
		"gemv_dense": dense, "gemv_int8": int8s, "gemv_int4": int4s,
		"spmm_nm24": nm24, "spmm_nm24_int8": nm24int8, "spmm_nm24_int4": nm24int4, "quant": quant, "stream": stream, "csr": csr, "csr_batch": csrBatch, "bitmask": bitmask, "unpack": unpack,
	}
	if *stem == "tile_run" {
		for _, f := range families {
			f()
		}
		dispatch()
		return
	}
	emit := families[*stem]
	if emit == nil {
		log.Fatalf("asm: no kernel family %q", *stem)
	}
	emit()
	Generate()
}

// out is the -out flag, which avo owns.
func out() string { return flag.Lookup("out").Value.String() }
