package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// report is everything that gates.json holds.
type report struct {
	Note     string     `json:"note"`
	Checks   int        `json:"checks"`
	Failures []string   `json:"failures"`
	Kernels  []kernel   `json:"kernels"`
	Rivals   []kernel   `json:"rivals"`
	Cited    []cited    `json:"rivals_cited"`
	Bytes    []bytesRow `json:"bytes"`
}

// cited is a rival whose figures were taken elsewhere: reference/cuda.md 6.2, same
// assembler (CUDA 13.5, sm_80), the loop that holds most products.
type cited struct {
	Name   string `json:"kernel"`
	Regs   string `json:"registers"`
	Spills string `json:"spills"`
	Loop   string `json:"loop_instructions"`
	MMA    string `json:"mma_in_loop"`
	Share  string `json:"mma_share"`
	Stall  string `json:"stall_bound_per_warp"`
}

var citedRivals = []cited{
	{"Flash-LLM, 5 instances", "128-235", "0", "405-884", "16-128 HMMA", "2.0-25.3 %", "0.06-0.58"},
	{"SpInfer, 4 instances", "64-102", "0", "483-518", "4-32 HMMA", "0.8-6.2 %", "0.03-0.21"},
	{"Sparse-Marlin (int4 + 2:4), 10 instances", "153-255", "2 of 10", "991-2354", "32-128 HMMA.SP", "2.8-5.5 %", "0.10-0.20"},
}

const note = "Static figures of compiled kernels: instructions, registers, bytes. Predictions, not measurements: no GPU ran them, and no line here is a speed."

func (r *report) write(dir string) error {
	r.Note, r.Cited = note, citedRivals
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "gates.json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "gates.md"), []byte(r.markdown()), 0o644)
}

func (r *report) markdown() string {
	var s strings.Builder
	p := func(format string, a ...any) { fmt.Fprintf(&s, format+"\n", a...) }
	p("# Static gates of the CUDA kernels\n\n%s\n", note)
	p("%d checks, %d failed.\n", r.Checks, len(r.Failures))
	for _, f := range r.Failures {
		p("- FAIL %s", f)
	}
	p("\n## Against the rivals (sm_80)\n")
	p("Hot loop: the natural loop with most tensor-core instructions, everything control can reach in it counted, copies too.")
	p("Stall bound per warp: 8 x products / sum of stall counts, the figure that reference/cuda.md 6.2 lists.\n")
	p("| kernel | registers | spills | loop instr | products in loop | share | stall bound per warp |\n|---|---|---|---|---|---|---|")
	for _, k := range append(r.pick("80", `spmm_nm24_f16_n128 spmm_nm24_int8_n128 spmm_nm24_int4_n128 spmm_bitmask_f16_n128 gemm_f16_n128 gemm_int8_n128`), r.Rivals...) {
		p("| %s | %d | %d | %d | %s | %.1f %% | %.2f |", k.Name, k.Regs, k.Spills, k.Loop.Instr, products(k.Loop), 100*k.Loop.Share,
			8*float64(k.Loop.Sparse+k.Loop.Dense)/float64(max(1, k.Loop.Stalls)))
	}
	for _, c := range citedRivals {
		p("| %s (cited) | %s | %s | %s | %s | %s | %s |", c.Name, c.Regs, c.Spills, c.Loop, c.MMA, c.Share, c.Stall)
	}
	p("\n## fp8 (e4m3)\n")
	p("mma.sync multiplies fp8 natively on sm_89 and sm_120a. On sm_90a and sm_100a ptxas unpacks it to f16 (HMMA, HMMA.SP); the kernels that then spill are not built there.\n")
	p("| kernel | registers sm_89 | share | registers sm_90a | share | registers sm_100a | share | registers sm_120a | share |\n|---|---|---|---|---|---|---|---|---|")
	for _, k := range r.Kernels {
		if k.Arch != "89" || !strings.Contains(k.Name, "_e4m3_n") {
			continue
		}
		line := "| " + k.Name
		for _, a := range []string{"89", "90a", "100a", "120a"} {
			if x := r.find(k.Name, a); x.Name != "" {
				line += fmt.Sprintf(" | %d | %.1f %%", x.Regs, 100*x.Loop.Share)
			} else {
				line += " | spills | -"
			}
		}
		p("%s |", line)
	}
	p("\n## Tensor-core kernels, sm_80\n")
	p("Issue and stall bound: share of the tensor pipe's peak that issue slots, and stall counts with the resident warps, allow at most.\n")
	p("| kernel | registers | shared | blocks/SM | occupancy | loop instr | products | share | LDSM | LDS | LDGSTS.128 | issue bound | stall bound | bank conflicts |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, k := range r.Kernels {
		if k.Arch == "80" && k.Loop.Sparse+k.Loop.Dense > 0 {
			p("| %s | %d | %d | %d | %.0f %% | %d | %s | %.1f %% | %d | %d | %d | %.2f | %.2f | %s |", k.Name, k.Regs, k.Shared, k.Blocks,
				100*k.Occupancy, k.Loop.Instr, products(k.Loop), 100*k.Loop.Share, k.Loop.LDSM, k.Loop.LDS, k.Loop.LDGSTS, k.IssueBound, k.StallBound, degree(k))
		}
	}
	p("\n## Decode kernels, batch 1 (gemv) and up to 16 (n16), sm_80 and sm_90a\n")
	p("Memory-bound while issue slots per byte of weights and metadata stay below 0.30 (A100) and 0.29 (H100) cycles. The backend decodes on the n16 kernels, which read the same tiles as prefill; gemv serves float32 activations, programs of at most 8 rows and odd widths.\n")
	p("| kernel | registers | occupancy | loop instr | 128-bit weight loads | cycle/B sm_80 | cycle/B sm_90a |\n|---|---|---|---|---|---|---|")
	for _, k := range r.Kernels {
		if k.Arch == "80" && k.IssuePerByte > 0 && (strings.HasSuffix(k.Name, "_b1") || strings.HasSuffix(k.Name, "_n16")) {
			h := r.find(k.Name, "90a")
			p("| %s | %d | %.0f %% | %d | %d | %.3f | %.3f |", k.Name, k.Regs, 100*k.Occupancy, k.Loop.Instr, k.Loop.Stream, k.IssuePerByte, h.IssuePerByte)
		}
	}
	if k := r.find("wgmma_nm24_f16", "90a"); k.Name != "" {
		p("\n## Experimental: wgmma.sp, sm_90a\n")
		p("Compiled and gated here, executed by nothing yet: the simulator has no wgmma, and no GPU ran it. One HGMMA.SP does 64 x 128 x 32.\n")
		p("%s: %d registers, %d bytes shared, %d instructions in the hot loop, %s.", k.Name, k.Regs, k.Shared, k.Loop.Instr, products(k.Loop))
	}
	r.matrix(p)
	p("\n## Bytes of packed weights against the ideal\n")
	p("Ideal: values, 2 bits per kept value, f16 scales of 64 columns for int4. Moved: every tile of the packed matrix, padding included.\n")
	p("| form | out x in | bytes moved | bytes/weight | moved / ideal |\n|---|---|---|---|---|")
	for _, b := range r.Bytes {
		p("| %s | %d x %d | %d | %.4f | %.3f |", b.Form, b.Out, b.In, b.Moved, b.Weight, b.Ratio)
	}
	p("\n## Rules\n\n| rule | kernels | sm_ | asks for |\n|---|---|---|---|")
	for _, ru := range rules {
		p("| %s | `%s` | `%s` | %s |", ru.id, strings.ReplaceAll(ru.name, "|", "\\|"), ru.arch, ru.why)
	}
	return s.String()
}

// matrix lists every kernel on every architecture: registers, and what fails.
func (r *report) matrix(p func(string, ...any)) {
	var names, archs []string
	seen := map[string]bool{}
	for _, k := range r.Kernels {
		if !seen[k.Name] {
			names, seen[k.Name] = append(names, k.Name), true
		}
		if !seen["sm_"+k.Arch] {
			archs, seen["sm_"+k.Arch] = append(archs, k.Arch), true
		}
	}
	sort.Strings(names)
	sort.Slice(archs, func(i, j int) bool {
		return len(archs[i]) < len(archs[j]) || len(archs[i]) == len(archs[j]) && archs[i] < archs[j]
	})
	p("\n## All kernels by architecture\n\nRegisters; sparse products (SP) or dense products (TC) in the hot loop; what failed.\n")
	p("| kernel | sm_%s |\n|---|%s", strings.Join(archs, " | sm_"), strings.Repeat("---|", len(archs)))
	for _, n := range names {
		row := "| " + n
		for _, a := range archs {
			k := r.find(n, a)
			cell := "-"
			if k.Name != "" {
				cell = fmt.Sprint(k.Regs)
				if k.Loop.Sparse > 0 {
					cell += fmt.Sprintf(" SP%d", k.Loop.Sparse)
				}
				if k.Loop.Dense > 0 {
					cell += fmt.Sprintf(" TC%d", k.Loop.Dense)
				}
				if k.Failed != nil {
					cell += " **" + strings.Join(k.Failed, " ") + "**"
				}
			}
			row += " | " + cell
		}
		p("%s |", row)
	}
}

func products(u loopUse) string {
	switch {
	case u.Sparse > 0 && u.Dense > 0:
		return fmt.Sprintf("%d sparse, %d dense", u.Sparse, u.Dense)
	case u.Sparse > 0:
		return fmt.Sprintf("%d sparse", u.Sparse)
	}
	return fmt.Sprintf("%d dense", u.Dense)
}

func degree(k kernel) string {
	if k.Conflicts == 0 {
		return "not measured"
	}
	return fmt.Sprintf("%d-way", k.Conflicts)
}

func (r *report) find(name, arch string) kernel {
	for _, k := range r.Kernels {
		if k.Name == name && k.Arch == arch {
			return k
		}
	}
	return kernel{}
}

func (r *report) pick(arch, names string) []kernel {
	var out []kernel
	for _, n := range strings.Fields(names) {
		if k := r.find(n, arch); k.Name != "" {
			out = append(out, k)
		}
	}
	return out
}
