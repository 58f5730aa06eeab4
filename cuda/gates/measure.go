package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"regexp"
	"strings"
)

// kernel is what is measured of one kernel on one architecture.
type kernel struct {
	Name   string `json:"kernel"`
	Arch   string `json:"arch"`
	Regs   int    `json:"registers"`
	Spills int    `json:"spill_instructions"` // loads and stores of local memory
	Shared int    `json:"shared_bytes"`       // static and, where known, dynamic
	Blocks int    `json:"blocks_per_sm"`
	Warps  int    `json:"warps_per_sm"`
	// Occupancy is resident warps over the most the multiprocessor holds.
	Occupancy float64 `json:"occupancy"`
	Code      int     `json:"instructions"`
	Loop      loopUse `json:"hot_loop"`
	// IssueBound is the share of the tensor pipe's peak that the loop's issue slots
	// allow, StallBound what the stall counts and the resident warps allow: upper bounds
	// both, since waits for memory come on top. Zero where no figure for the pipe is known.
	IssueBound float64 `json:"issue_bound,omitempty"`
	StallBound float64 `json:"stall_bound,omitempty"`
	// IssuePerByte is, for decode kernels, issue slots per byte of weights and metadata.
	IssuePerByte float64  `json:"issue_cycles_per_weight_byte,omitempty"`
	Conflicts    int      `json:"bank_conflict_degree,omitempty"` // from the simulator; 0: not measured
	Failed       []string `json:"failed,omitempty"`
}

// loopUse counts the hot loop: the one with most tensor-core instructions, or, where
// there are none, with most bytes loaded.
type loopUse struct {
	Instr  int     `json:"instructions"`
	Sparse int     `json:"sparse_mma"`
	Dense  int     `json:"dense_mma"`
	Share  float64 `json:"mma_share"`
	LDSM   int     `json:"ldsm"`
	LDS    int     `json:"lds"`
	LDGSTS int     `json:"ldgsts_128"`
	Stream int     `json:"stream_loads_128"` // 128-bit loads that bypass L1: weights
	Stalls int     `json:"stall_cycles"`
}

func isMMA(op string) bool {
	switch b := strings.SplitN(op, ".", 2)[0]; b {
	case "HMMA", "IMMA", "QMMA", "HGMMA", "IGMMA", "QGMMA", "OMMA":
		return true
	}
	return false
}

func isSparseMMA(op string) bool {
	return isMMA(op) && strings.Contains(op+".", ".SP.")
}

// count sums up a loop.
func (f *function) count(l loop) loopUse {
	u := loopUse{Instr: len(l.body)}
	for _, i := range l.body {
		in := f.code[i]
		u.Stalls += in.stall
		switch {
		case isSparseMMA(in.op):
			u.Sparse++
		case isMMA(in.op):
			u.Dense++
		case in.base() == "LDSM":
			u.LDSM++
		case in.base() == "LDS":
			u.LDS++
		case in.base() == "LDGSTS" && strings.Contains(in.op, ".128"):
			u.LDGSTS++
		case in.base() == "LDG" && strings.Contains(in.op, ".NA") && strings.Contains(in.op, ".128"):
			u.Stream++
		}
	}
	if u.Instr > 0 {
		u.Share = float64(u.Sparse+u.Dense) / float64(u.Instr)
	}
	return u
}

// hot picks the loop that matters; among loops with the same work the smallest.
func (f *function) hot() loopUse {
	var best loopUse
	weight := func(u loopUse) int {
		if n := u.Sparse + u.Dense; n > 0 {
			return 1000 * n
		}
		return u.Stream
	}
	for _, l := range f.loops() {
		u := f.count(l)
		if w, b := weight(u), weight(best); w > b || w == b && w > 0 && u.Instr < best.Instr {
			best = u
		}
	}
	return best
}

// measure computes a kernel's figures.
func measure(f *function, u usage, arch string) kernel {
	k := kernel{Name: f.name, Arch: arch, Regs: u.regs, Loop: f.hot()}
	if strings.HasPrefix(f.name, "_ZN7cutlass") {
		k.Name = "cutlass_sparse_gemm_128x128x64"
	}
	for _, in := range f.code {
		switch in.base() {
		case "NOP":
			continue
		case "LDL", "STL":
			k.Spills++
		}
		k.Code++
	}
	a := arches[arch]
	k.Shared = u.shared + dynamicShared(k.Name)
	k.Blocks, k.Warps = a.resident(blockThreads(k.Name), u.regs, k.Shared)
	if a.warps > 0 {
		k.Occupancy = float64(k.Warps) / float64(a.warps)
	}
	if mma := k.Loop.Sparse + k.Loop.Dense; mma > 0 && a.mmaCycles > 0 {
		k.IssueBound = min(1, a.mmaCycles*float64(mma)/float64(k.Loop.Instr))
		if k.Loop.Stalls > 0 {
			k.StallBound = min(1, float64(k.Warps)/4*a.mmaCycles*float64(mma)/float64(k.Loop.Stalls))
		}
	}
	if b := streamBytes(k.Name) * float64(k.Loop.Stream); b > 0 {
		k.IssuePerByte = float64(k.Loop.Instr) / b
	} else if m := tileName.FindStringSubmatch(k.Name); m != nil && m[1] != "spmm_bitmask" {
		// Four warps share the two weight tiles that a turn of the loop consumes.
		k.IssuePerByte = float64(k.Loop.Instr) / (2 * float64(tileForm(m).Bytes()) / 4)
	}
	return k
}

var decodeName = regexp.MustCompile(`^gemv(_nm24)?_(f32|f16|bf16|int8|int4)_`)

// streamBytes is the bytes of weights and metadata that go with one 128-bit load of
// values by a warp: metadata is 2 bits per kept value.
func streamBytes(kernel string) float64 {
	m := decodeName.FindStringSubmatch(kernel)
	if m == nil {
		return 0
	}
	bytes := 16.
	if m[1] != "" {
		bytes += map[string]float64{"f32": 1, "f16": 2, "bf16": 2, "int8": 4, "int4": 8}[m[2]]
	}
	return 32 * bytes
}

// readConflicts reads the bank-conflict degrees that cuda/kerneltest wrote, if it ran.
func readConflicts(name string) (map[string]int, error) {
	out := map[string]int{}
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	return out, json.Unmarshal(b, &out)
}
