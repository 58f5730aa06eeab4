package ptxsim

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseErrorsNameTheLine(t *testing.T) {
	for src, want := range map[string]string{
		"":                               "no .version",
		"garbage":                        `line 1: want a directive, got "garbage"`,
		ptxHead + ".frob 1;":             `line 4: unknown directive ".frob"`,
		ptxHead + "/* open":              "line 4: unclosed comment",
		ptxHead + ".visible .entry k( {": "line 4",
		ptxHead + ".entry k() { add.u32 ;}\n.entry k() { ret; }":               "line 5: k defined twice",
		ptxHead + ".entry k() {\n ret; ":                                       "k: body not closed",
		ptxHead + ".entry k() {\nL: ret;\nL: ret; }":                           "line 6: label L defined twice",
		ptxHead + ".entry k() {\n bra M; }":                                    "line 5: bra: unknown name M",
		ptxHead + ".entry k() {\n @%p1 ret; }":                                 `line 5: guard "%p1" is no predicate`,
		ptxHead + ".global .b8 x[99999999999];":                                "array of x too large",
		ptxHead + ".global .align 3 .b8 x[4];":                                 "alignment 3 is no power of two",
		ptxHead + ".global .u32 x = {1, 2};":                                   "initialiser of 8 bytes for 4",
		ptxHead + ".entry k() { .reg .b32 %r<99999999>; ret; }":                "registers %r, at most",
		ptxHead + ".entry k() { .reg .b32 %r<2>; mov.u32 %r1, 0xzz; }":         "line 4",
		ptxHead + ".entry k() { .reg .v4 .b32 %r<2>; }":                        "vector registers",
		ptxHead + ".entry k(.param .pred x) { }":                               "without a storable type",
		".version 9.5\n.target sm_80\n.address_size 32":                        ".address_size 32",
		ptxHead + strings.Repeat(".entry k() {", 1) + strings.Repeat("{", 200): "too many scopes",
	} {
		_, err := parse(src)
		require.ErrorIs(t, err, ErrSyntax, src)
		require.ErrorContains(t, err, want)
	}
}

func TestParseAcceptsTheForms(t *testing.T) {
	p, err := parse(ptxHead + `
	.file 1 "x.cu"
	.section .debug_str { .b8 1, 2 }
	.extern .shared .align 16 .b8 sm[];
	.weak .global .align 8 .b8 a[4] = {1, 0x2, 3U, 010};
	.visible .entry k(.param .u64 .ptr .global .align 16 p, .param .align 8 .b8 q[16])
	.maxntid 128, 1, 1
	.minnctapersm 2
	.pragma "nounroll";
	{ .reg.b32 x, y; .reg .pred p1;
	.loc 1 2 3
	.pragma "nounroll";
	{ .reg .b32 x; mov.b32 x, -5; L: mov.b32 y, x; }
	{ .reg .b64 x; mov.b64 x, 0d3FF0000000000000; bra L; L: }
	mov.b32 x, y;;
	$L__BB0_1: @!p1 bra.uni $L__BB0_1; ret; /* end */ } // tail
	`)
	require.NoError(t, err)
	f := p.funcs[0]
	require.Equal(t, 128, f.maxThreads)
	require.Equal(t, 24, f.paramSize)
	require.Equal(t, []byte{1, 2, 3, 8}, p.globals["a"].init)
	require.Len(t, f.regs, 5, "x of three scopes, y and p1")
	require.Equal(t, []int{4}, f.body[3].targets, "the inner L, which stands at the end of its block")
	outer, err := parse(ptxHead + ".entry k() { M: { { bra M; } } ret; }")
	require.NoError(t, err)
	require.Equal(t, []int{0}, outer.funcs[0].body[0].targets, "a label of an outer block")
	require.Equal(t, "bra.uni", f.body[5].opcode())
	require.True(t, f.body[5].guardNeg)
}

func TestExtract(t *testing.T) {
	src := ptxHead + ".global .u32 g = 1;\n.visible .entry a() { ret; }\n.visible .entry b() {\n ret;\n}\n.visible .entry c() { ret; }\n"
	got, err := Extract(src, "b")
	require.NoError(t, err)
	names, err := Kernels(got)
	require.NoError(t, err)
	require.Equal(t, []string{"b"}, names)
	require.Contains(t, got, ".global .u32 g")
	require.Equal(t, strings.Count(src, "\n"), strings.Count(got, "\n"))
	other, err := Extract(src, "c")
	require.NoError(t, err)
	require.Equal(t, strings.Count(src, "\n"), strings.Count(other, "\n"), "lines of what was cut stay")
	_, err = Extract(src, "nothing")
	require.ErrorIs(t, err, ErrNotFound)
}

// FuzzParse: no panic and no more memory than the limits allow, whatever the text;
// and what parses also decodes or says why not.
func FuzzParse(f *testing.F) {
	f.Add(ptxHead + ".visible .entry k(.param .u64 p) { .reg .b32 %r<4>; mov.u32 %r1, %tid.x; @%p1 bra L; L: ret; }")
	f.Add(kern("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4},{%r1,%r2},{%r3},{%f1,%f2,%f3,%f4};"))
	f.Add(kern("{ .reg .f16 a; T: .branchtargets A, B; brx.idx %r1, T; A: B: cp.async.wait_group 0; }"))
	f.Add(ptxHead + ".global .align 8 .u64 x[3] = {x, generic(x)+8, -1};\n.file 1 \"a\"\n")
	if files, _ := filepath.Glob("../build/*.ptx"); len(files) > 0 {
		if b, err := os.ReadFile(files[0]); err == nil {
			f.Add(string(b[:min(len(b), 20000)]))
		}
	}
	f.Fuzz(func(t *testing.T, src string) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		p, err := parse(src)
		if err == nil {
			for _, fn := range p.funcs {
				_, _ = decode(fn, func(*variable) uint64 { return memBase })
				if muts, err := Mutants(src, fn.name, 2); err == nil {
					for _, m := range muts {
						_, _ = parse(m.Apply(src))
					}
				}
			}
		}
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20+40000*uint64(len(src)) {
			t.Fatalf("%d bytes of text took %d bytes of memory", len(src), grown)
		}
	})
}
