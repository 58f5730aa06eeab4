package kerneltest

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sparserun/sparserun/cuda/ptxsim"
)

// mutated are the kernels whose PTX is broken on purpose: one of every template, in
// different types and sizes. SPARSERUN_MUTATE names others, or "all".
var mutated = strings.Fields(`
	rmsnorm_f16 rmsnorm_heads_f32 add_rmsnorm_f32 add_f16 mul_f32 bias_act_f16 silu_gate_f16 embedding_int8_f16
	embedding_bf16_f32 rope_f16 softmax_f32 argmax_f16 topk_f32 kv_write_f16 quantise_int8_f16 prune_nm24_f16 im2col_f16
	pack_nm24_b16 pack_nm24_b8 pack_dense_b16
	gemv_f16_f16_b1 gemv_int8_f32_b1 gemv_int4_f16_b4 gemv_nm24_f16_f16_b1 gemv_nm24_bf16_f32_b1 gemv_nm24_int8_f16_b4
	gemv_nm24_int4_f32_b1 linear_f16_f16 linear_int4_f32 linear_nm24_int8_f16 spmv_csr_f16_f16_c16_b1 spmv_csr_int8_f32_c32_b8
	spmm_nm24_f16_n128 spmm_nm24_bf16_n32 spmm_nm24_int8_n64 spmm_nm24_int4_n16 spmm_nm24_e4m3_n16
	gemm_f16_n64 gemm_int8_n16 gemm_int4_n32 spmm_bitmask_f16_n64 round_bf16_f16 embedding_tile_int8_f16 embedding_tile_int4_f16 quantise_e4m3_f32
	attention_f16 attention_decode_f16_hd64_g4 attention_combine_f16 attention_prefill_f16_hd64`)

// partners are kernels that checks of others need after them.
var partners = []string{"attention_combine_f16",
	"attention_decode_f16_hd64_g1", "attention_decode_f16_hd64_g4", "attention_decode_f16_hd64_g8",
	"attention_decode_f16_hd128_g1", "attention_decode_f16_hd128_g4", "attention_decode_f16_hd128_g8"}

// mutantsPerKind is how many mutants of each kind a kernel gets; 0 is all of them.
func mutantsPerKind(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("SPARSERUN_MUTANTS"))
	if err == nil {
		return n
	}
	if testing.Short() {
		t.Skip("-short: no mutation run")
	}
	return 2
}

// TestMutations breaks the kernels' PTX, one instruction at a time, and asks whether
// the checks notice. SPARSERUN_MUTANTS=0 tries every mutant (minutes).
func TestMutations(t *testing.T) {
	perKind := mutantsPerKind(t)
	texts := map[string]string{}
	for _, f := range families {
		texts[f] = ptx(t, f)
	}
	helper, err := ptxsim.Extract(texts["80"], partners...)
	if err != nil {
		t.Fatal(err)
	}
	checks := allChecks()
	names := mutated
	if only := os.Getenv("SPARSERUN_MUTATE"); only == "all" {
		names = nil
		for _, f := range families {
			ks, err := ptxsim.Kernels(texts[f])
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, ks...)
		}
	} else if only != "" {
		names = strings.Fields(only)
	}
	var total ptxsim.MutationReport
	for _, name := range names {
		var mine []check
		for _, c := range checks {
			if slices.Contains(c.covers, name) {
				mine = append(mine, c)
			}
		}
		src := texts["80"]
		if _, err := ptxsim.Extract(src, name); err != nil {
			src = texts["89"]
		}
		rep, err := ptxsim.RunMutants(src, name, perKind, func(mutant string) error {
			r, err := rigOf(3, mutant, helper)
			if err != nil {
				return err
			}
			for _, c := range mine {
				if err := c.run(r); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		excuse(&rep, src)
		total.Add(rep)
		for _, m := range rep.Survived {
			t.Log("survived: ", m)
		}
		t.Logf("%-32s %3d of %3d killed, %d excused", name, len(rep.Killed), len(rep.Killed)+len(rep.Survived), len(rep.Excused))
	}
	total.Print(os.Stdout)
	if total.Rate() < .95 {
		t.Errorf("kill rate %.1f %%, want at least 95 %%", 100*total.Rate())
	}
}

// excuse sets aside survivors that no output can show, by what is around them.
func excuse(rep *ptxsim.MutationReport, src string) {
	lines := strings.Split(src, "\n")
	rep.Excuse("a butterfly over 31 instead of one of 16, 8, 4, 2, 1 still joins all 32 lanes", func(m ptxsim.Mutant) bool {
		f := strings.FieldsFunc(m.Detail[strings.Index(m.Detail, "->"):], func(c rune) bool { return strings.ContainsRune(" ,;", c) })
		return m.Kind == "shuffle" && strings.Contains(m.Detail, "shfl.sync.bfly") && len(f) > 5 && f[4] == f[5]
	})
	rep.Excuse("indices are equal only where both lanes hold the same element", func(m ptxsim.Mutant) bool {
		return m.Kind == "bounds" && (strings.HasPrefix(m.Kernel, "argmax") || strings.HasPrefix(m.Kernel, "topk")) &&
			strings.HasPrefix(m.Detail, "setp.lt.s32") && strings.Contains(m.Detail, "-> setp.le.s32") &&
			strings.Contains(lines[m.Line-2]+lines[m.Line-3], "setp.eq.f32")
	})
	rep.Excuse("dynamic shared memory starts at 0 where there is no other", func(m ptxsim.Mutant) bool {
		if m.Kind != "addsub" || !strings.Contains(m.Detail, "-> sub.s32") {
			return false
		}
		f := strings.Fields(strings.TrimSuffix(m.Detail[:strings.Index(m.Detail, " ->")], ";"))
		base := "mov.u32 \t" + f[len(f)-1] + ", smem;"
		for n := m.Line; n > 0 && !strings.Contains(lines[n-1], ".entry"); n-- {
			if strings.Contains(lines[n-1], base) {
				return true
			}
		}
		return false
	})
	rep.Excuse("no block has so many threads", func(m ptxsim.Mutant) bool {
		f := strings.FieldsFunc(m.Detail, func(c rune) bool { return strings.ContainsRune(" ,;\t", c) })
		if m.Kind != "bounds" || len(f) < 4 || !strings.HasPrefix(f[0], "setp.g") {
			return false
		}
		limit, err := strconv.Atoi(f[3])
		before := strings.Join(lines[max(0, m.Line-5):m.Line], "\n")
		return err == nil && limit >= 255 && strings.Contains(before, f[2]+", %tid.x;")
	})
	rep.Excuse("sums of rows beyond the batch, which nobody reads", func(m ptxsim.Mutant) bool {
		return m.Kind == "guard" && strings.Contains(m.Detail, " bra ") && strings.Contains(strings.Join(lines[m.Line:m.Line+3], " "), "%ctaid.z;")
	})
	rep.Excuse("a loop over splits, of which there is at least one", func(m ptxsim.Mutant) bool {
		return m.Kernel == "attention_combine_f16" && m.Kind == "guard" && strings.HasPrefix(strings.TrimSpace(lines[m.Line-3]), "setp.lt.s32") &&
			strings.HasSuffix(strings.TrimSpace(lines[m.Line-3]), ", 1;")
	})
	rep.Excuse("a window of 1 starts at position 0, and its mask lets through what it should", func(m ptxsim.Mutant) bool {
		return m.Kind == "bounds" && strings.HasPrefix(m.Kernel, "attention_prefill") && strings.HasPrefix(m.Detail, "setp.lt.s32") &&
			strings.HasSuffix(m.Detail, ", 1;")
	})
	rep.Excuse("every lane holds what the guarded store writes: any of them may", func(m ptxsim.Mutant) bool {
		return (m.Kind == "guard" || m.Kind == "bounds") && guardsStore(lines[m.Line-1:])
	})
}

// guardsStore: are the next instructions a guard, addresses and stores, and then a label?
func guardsStore(lines []string) bool {
	stores := false
	for i, l := range lines {
		l = strings.TrimSpace(l)
		switch {
		case l == "" || i < 2:
		case strings.HasPrefix(l, "st."):
			stores = true
		case strings.HasPrefix(l, "$L"):
			return stores
		case strings.HasPrefix(l, "ld.") || strings.HasPrefix(l, "mma") || strings.HasPrefix(l, "bar") || strings.HasPrefix(l, "@") || i > 24:
			return false
		}
	}
	return false
}
