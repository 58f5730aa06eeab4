package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// listing is cuobjdump -sass of a made-up kernel: a loop whose copy block lies out of
// line, behind the loop, as ptxas likes to put it.
const listing = `
	code for sm_80
		Function : spmm_nm24_f16_n128
	.headerflags	@"EF_CUDA_SM80"
        /*0000*/                   MOV R1, c[0x0][0x28] ;                 /* 0x00000a0000017a02 */
                                                                          /* 0x000fe20000000f00 */
        /*0010*/                   LDSM.16.M88.4 R4, [R8] ;               /* 0x0000000000000000 */
                                                                          /* 0x000fe40000000000 */
        /*0020*/              @!P1 BRA 0x60 ;                             /* 0x0000000000000000 */
                                                                          /* 0x000fe20000000000 */
        /*0030*/                   HMMA.SP.16832.F32 R4, R8, R12, R4, R2, 0x0 ; /* 0x0000000000000000 */
                                                                          /* 0x000ff00000000000 */
        /*0040*/               @P0 BRA 0x10 ;                             /* 0x0000000000000000 */
                                                                          /* 0x000fe20000000000 */
        /*0050*/                   EXIT ;                                 /* 0x0000000000000000 */
                                                                          /* 0x000fe20000000000 */
        /*0060*/                   LDGSTS.E.BYPASS.LTC128B.128 [R3], [R4.64] ; /* 0x0000000000000000 */
                                                                          /* 0x000fe20000000000 */
        /*0070*/                   BRA 0x30 ;                             /* 0x0000000000000000 */
                                                                          /* 0x000fe20000000000 */
        /*0080*/                   BRA 0x80;                              /* 0x0000000000000000 */
                                                                          /* 0x000fe20000000000 */
`

func TestHotLoopCountsWhatLiesOutOfLine(t *testing.T) {
	fs := parseSASS(listing)
	require.Len(t, fs, 1)
	require.Len(t, fs[0].code, 9)
	u := fs[0].hot()
	require.Equal(t, loopUse{Instr: 6, Sparse: 1, Share: 1. / 6, LDSM: 1, LDGSTS: 1, Stalls: 1 + 2 + 8 + 1 + 1 + 1}, u)
}

func TestUsage(t *testing.T) {
	got := parseUsage("\nResource usage:\n Common:\n  GLOBAL:0\n Function add_f16:\n  REG:16 STACK:8 SHARED:128 LOCAL:4 CONSTANT[0]:380 TEXTURE:0\n")
	require.Equal(t, map[string]usage{"add_f16": {16, 8, 128, 4}}, got)
}

func TestOccupancy(t *testing.T) {
	for _, c := range []struct {
		arch                        string
		threads, regs, shared, want int
	}{
		{"80", 128, 255, 76800, 2}, // registers and shared memory both allow two
		{"80", 128, 32, 0, 16},     // 64 warps
		{"86", 128, 32, 0, 12},     // 48 warps
		{"80", 128, 232, 98304, 1}, // 164 KiB of shared memory
		{"86", 128, 40, 101376, 1},
		{"80", 32, 16, 0, 32}, // 32 blocks
	} {
		blocks, warps := arches[c.arch].resident(c.threads, c.regs, c.shared)
		require.Equal(t, c.want, blocks, "%+v", c)
		require.Equal(t, c.want*c.threads/32, warps, "%+v", c)
	}
}

// Each rule must be able to fail.
func TestRulesBite(t *testing.T) {
	good := kernel{Name: "spmm_nm24_f16_n128", Arch: "80", Regs: 244, Blocks: 2, Loop: loopUse{Instr: 175, Sparse: 64, Share: 64. / 175}, Conflicts: 1}
	judge := func(k kernel) []string {
		r := &report{Kernels: []kernel{k}}
		r.judge()
		return r.Kernels[0].Failed
	}
	require.Empty(t, judge(good))
	for rule, spoil := range map[string]func(k *kernel){
		"spills":     func(k *kernel) { k.Spills = 1 },
		"registers":  func(k *kernel) { k.Regs = 256 },
		"resident":   func(k *kernel) { k.Blocks = 0 },
		"no_dense":   func(k *kernel) { k.Loop.Dense = 1 },
		"conflicts":  func(k *kernel) { k.Conflicts = 2 },
		"target_f16": func(k *kernel) { k.Loop.Share = .30 },
	} {
		k := good
		spoil(&k)
		require.Equal(t, []string{rule}, judge(k))
	}
	k := good
	k.Loop.Sparse, k.Loop.Dense = 0, 64
	require.Equal(t, []string{"sparse_tc", "no_dense"}, judge(k))
	decode := kernel{Name: "gemv_nm24_f16_f16_b1", Arch: "80", Blocks: 1, IssuePerByte: .31}
	require.Equal(t, []string{"target_decode"}, judge(decode))
}

func TestReportNamesFailuresAndRivals(t *testing.T) {
	r := &report{Kernels: []kernel{{Name: "add_f16", Arch: "80", Regs: 300, Blocks: 1}}}
	r.judge()
	md := r.markdown()
	require.Contains(t, md, "FAIL registers: add_f16 sm_80: 300")
	require.Contains(t, md, "Sparse-Marlin")
	require.True(t, strings.Contains(md, "no line here is a speed"))
}
