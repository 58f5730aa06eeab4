package main

// loop is a natural loop: the instructions, by index, that can reach its back edges
// without leaving through its head.
type loop struct {
	head int
	body []int // ascending
}

// loops finds the natural loops of a kernel, blocks moved out of line included: what
// counts is where control can flow, not where the assembler put the code.
func (f *function) loops() []loop {
	at := map[int]int{}
	for i, in := range f.code {
		at[in.addr] = i
	}
	preds := make([][]int, len(f.code))
	back := map[int][]int{} // head -> sources of back edges
	edge := func(from, to int) {
		preds[to] = append(preds[to], from)
	}
	for i, in := range f.code {
		ends := in.op == "EXIT" || in.op == "RET" || in.base() == "RET" || in.base() == "BRX"
		if t, ok := at[in.target]; ok && in.target >= 0 {
			edge(i, t)
			if !in.guard {
				ends = true
			}
		}
		if (!ends || in.guard) && i+1 < len(f.code) {
			edge(i, i+1)
		}
	}
	dom := f.dominators(preds)
	for i, in := range f.code {
		if t, ok := at[in.target]; ok && in.target >= 0 && dom(t, i) {
			back[t] = append(back[t], i)
		}
	}
	var out []loop
	for head, sources := range back {
		in := map[int]bool{head: true}
		work := append([]int{}, sources...)
		for len(work) > 0 {
			n := work[len(work)-1]
			work = work[:len(work)-1]
			if in[n] {
				continue
			}
			in[n] = true
			work = append(work, preds[n]...)
		}
		l := loop{head: head}
		for i := range f.code {
			if in[i] && f.code[i].op != "NOP" {
				l.body = append(l.body, i)
			}
		}
		out = append(out, l)
	}
	return out
}

// dominators answers whether a dominates b, by the iterative algorithm of Cooper,
// Harvey and Kennedy over the reverse postorder that addresses give after one pass of
// reachability.
func (f *function) dominators(preds [][]int) func(a, b int) bool {
	n := len(f.code)
	succs := make([][]int, n)
	for to, ps := range preds {
		for _, p := range ps {
			succs[p] = append(succs[p], to)
		}
	}
	order := make([]int, n) // postorder number, -1 unreachable
	for i := range order {
		order[i] = -1
	}
	var post []int
	seen := make([]bool, n)
	type frame struct{ node, next int }
	stack := []frame{{0, 0}}
	if n > 0 {
		seen[0] = true
	}
	for n > 0 && len(stack) > 0 {
		top := &stack[len(stack)-1]
		if top.next < len(succs[top.node]) {
			s := succs[top.node][top.next]
			top.next++
			if !seen[s] {
				seen[s] = true
				stack = append(stack, frame{s, 0})
			}
			continue
		}
		order[top.node] = len(post)
		post = append(post, top.node)
		stack = stack[:len(stack)-1]
	}
	idom := make([]int, n)
	for i := range idom {
		idom[i] = -1
	}
	if n > 0 {
		idom[0] = 0
	}
	for changed := true; changed; {
		changed = false
		for k := len(post) - 1; k >= 0; k-- {
			b := post[k]
			if b == 0 {
				continue
			}
			best := -1
			for _, p := range preds[b] {
				if idom[p] < 0 {
					continue
				}
				if best < 0 {
					best = p
					continue
				}
				for a := p; a != best; {
					for order[a] < order[best] {
						a = idom[a]
					}
					for order[best] < order[a] {
						best = idom[best]
					}
				}
			}
			if best >= 0 && idom[b] != best {
				idom[b], changed = best, true
			}
		}
	}
	return func(a, b int) bool {
		if order[b] < 0 || order[a] < 0 {
			return false
		}
		for b != a && b != 0 {
			b = idom[b]
		}
		return b == a
	}
}
