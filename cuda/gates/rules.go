package main

import (
	"fmt"
	"regexp"
)

// rule is a threshold: kernels that match name on an architecture that matches arch
// must satisfy ok.
type rule struct {
	id, name, arch string
	why            string
	ok             func(k kernel) (got string, ok bool)
}

func share(at float64) func(k kernel) (string, bool) {
	return func(k kernel) (string, bool) { return fmt.Sprintf("%.1f %%", 100*k.Loop.Share), k.Loop.Share >= at }
}

func perByte(at float64) func(k kernel) (string, bool) {
	return func(k kernel) (string, bool) {
		return fmt.Sprintf("%.3f cycle/B", k.IssuePerByte), k.IssuePerByte > 0 && k.IssuePerByte <= at
	}
}

// rules is the gate. The first ones hold everywhere, the others are the targets of
// the project and, behind them, ratchets: what the kernels reached, less a little.
var rules = []rule{
	{"spills", `.`, `.`, "no kernel keeps registers in memory",
		func(k kernel) (string, bool) { return fmt.Sprint(k.Spills), k.Spills == 0 }},
	{"registers", `.`, `.`, "at most 255 registers",
		func(k kernel) (string, bool) { return fmt.Sprint(k.Regs), k.Regs <= 255 }},
	{"resident", `.`, `.`, "a block fits the multiprocessor",
		func(k kernel) (string, bool) { return fmt.Sprint(k.Blocks), k.Blocks >= 1 }},
	{"sparse_tc", `^(spmm|wgmma)_nm24_`, `.`, "sparse tensor-core products in the hot loop",
		func(k kernel) (string, bool) { return fmt.Sprint(k.Loop.Sparse), k.Loop.Sparse > 0 }},
	{"no_dense", `^(spmm|wgmma)_nm24_`, `.`, "no dense product in a sparse loop",
		func(k kernel) (string, bool) { return fmt.Sprint(k.Loop.Dense), k.Loop.Dense == 0 }},
	{"dense_tc", `^(gemm|spmm_bitmask|attention_prefill)_`, `.`, "tensor-core products in the hot loop",
		func(k kernel) (string, bool) { return fmt.Sprint(k.Loop.Dense), k.Loop.Dense > 0 }},
	{"conflicts", `^(spmm|gemm|attention_prefill|attention_decode)`, `^80$`, "shared memory without bank conflicts (simulator)",
		func(k kernel) (string, bool) { return fmt.Sprint(k.Conflicts), k.Conflicts <= 1 }},

	{"target_f16", `^spmm_nm24_(f16|bf16)_n128$`, `^80$`, "share of HMMA.SP in the hot loop: CUTLASS has 64 of 206", share(.31)},
	{"target_int8", `^spmm_nm24_int8_n128$`, `^80$`, "share of IMMA.SP in the hot loop, as f16", share(.31)},
	{"target_int4", `^spmm_nm24_int4_n128$`, `^80$`, "share of HMMA.SP: Sparse-Marlin's best is 5.5 %", share(.0551)},
	{"target_decode", `^gemv_nm24_(f16|bf16|int8)_\w+_b1$`, `^80$`, "issue slots per weight byte, memory-bound on A100", perByte(.30)},
	{"target_decode_h100", `^gemv_nm24_(f16|bf16|int8)_\w+_b1$`, `^90a$`, "issue slots per weight byte, memory-bound on H100", perByte(.29)},
	{"target_decode_tiles", `^spmm_nm24_\w+_n16$`, `^80$`, "issue slots per weight byte of what the backend decodes with, memory-bound on A100", perByte(.30)},
	{"target_decode_tiles_h100", `^spmm_nm24_\w+_n16$`, `^90a$`, "issue slots per weight byte of what the backend decodes with, memory-bound on H100", perByte(.29)},
	{"decode_dense", `^(gemv_(f16|bf16|int8)_\w+_b1|gemm_\w+_n16)$`, `^80$`, "the dense rival is memory-bound, too", perByte(.30)},
}

// judge applies the rules.
func (r *report) judge() {
	for _, ru := range rules {
		name, arch := regexp.MustCompile(ru.name), regexp.MustCompile(ru.arch)
		for i := range r.Kernels {
			k := &r.Kernels[i]
			if !name.MatchString(k.Name) || !arch.MatchString(k.Arch) {
				continue
			}
			r.Checks++
			if got, ok := ru.ok(*k); !ok {
				k.Failed = append(k.Failed, ru.id)
				r.Failures = append(r.Failures, fmt.Sprintf("%s: %s sm_%s: %s (%s)", ru.id, k.Name, k.Arch, got, ru.why))
			}
		}
	}
	for _, b := range r.Bytes {
		r.Checks++
		if b.In%128 == 0 && b.Out%64 == 0 && b.Ratio > 1.001 {
			r.Failures = append(r.Failures, fmt.Sprintf("bytes: %s %dx%d: %.3f of the ideal", b.Form, b.Out, b.In, b.Ratio))
		}
	}
}
