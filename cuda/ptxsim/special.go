package ptxsim

import "math/bits"

var specialWide = map[string]bool{"%clock64": true, "%globaltimer": true, "%gridid": true, "%current_graph_exec": true}

var specialNames = map[string]bool{
	"%tid.x": true, "%tid.y": true, "%tid.z": true, "%ntid.x": true, "%ntid.y": true, "%ntid.z": true,
	"%ctaid.x": true, "%ctaid.y": true, "%ctaid.z": true, "%nctaid.x": true, "%nctaid.y": true, "%nctaid.z": true,
	"%laneid": true, "%warpid": true, "%nwarpid": true, "%smid": true, "%nsmid": true, "%gridid": true,
	"%lanemask_eq": true, "%lanemask_lt": true, "%lanemask_le": true, "%lanemask_gt": true, "%lanemask_ge": true,
	"%clock": true, "%clock64": true, "%clock_hi": true, "%globaltimer": true, "%globaltimer_lo": true, "%globaltimer_hi": true,
	"%dynamic_smem_size": true, "%total_smem_size": true, "WARP_SZ": true,
}

// specialReg gives the slot of a special register, filled when a block starts.
// Clocks are filled then too: time has no meaning here.
func (b *builder) specialReg(name string, t dtype) slot {
	if !specialNames[name] {
		panic(b.unsupported("unknown register %s", name))
	}
	s, ok := b.specs[name]
	if !ok {
		if specialWide[name] {
			s = slot{b.new64(name), true, t}
		} else {
			s = slot{b.new32(name), false, t}
		}
		b.specs[name] = s
		b.k.special = append(b.k.special, specialSlot{s.i, s.wide, name})
	}
	s.t = t
	return s
}

// specialValue is the value of a special register in lane i of w.
func (w *warp) specialValue(name string, i int) uint64 {
	blk := w.blk
	tid := blk.threadDim(w.id*32 + i)
	switch name {
	case "%tid.x":
		return uint64(tid.X)
	case "%tid.y":
		return uint64(tid.Y)
	case "%tid.z":
		return uint64(tid.Z)
	case "%ntid.x":
		return uint64(blk.run.block.X)
	case "%ntid.y":
		return uint64(blk.run.block.Y)
	case "%ntid.z":
		return uint64(blk.run.block.Z)
	case "%ctaid.x":
		return uint64(blk.idx.X)
	case "%ctaid.y":
		return uint64(blk.idx.Y)
	case "%ctaid.z":
		return uint64(blk.idx.Z)
	case "%nctaid.x":
		return uint64(blk.run.grid.X)
	case "%nctaid.y":
		return uint64(blk.run.grid.Y)
	case "%nctaid.z":
		return uint64(blk.run.grid.Z)
	case "%laneid":
		return uint64(i)
	case "%warpid":
		return uint64(w.id)
	case "%nwarpid":
		return uint64(len(blk.warps))
	case "%nsmid":
		return uint64(blk.run.dev.cfg.Multiprocessors)
	case "%smid":
		return uint64(blk.linear % blk.run.dev.cfg.Multiprocessors)
	case "%gridid":
		return blk.run.seq
	case "%lanemask_eq":
		return 1 << i
	case "%lanemask_lt":
		return 1<<i - 1
	case "%lanemask_le":
		return 1<<(i+1) - 1
	case "%lanemask_gt":
		return uint64(bits.Reverse32(1<<(31-i) - 1))
	case "%lanemask_ge":
		return uint64(bits.Reverse32(uint32(uint64(1)<<(32-i) - 1)))
	case "%dynamic_smem_size":
		return uint64(blk.run.dynShared)
	case "%total_smem_size":
		return uint64(blk.run.sharedSize)
	case "WARP_SZ":
		return 32
	}
	return 0 // clocks
}
