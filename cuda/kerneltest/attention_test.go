package kerneltest

import (
	"fmt"
	"math"
	"testing"

	"github.com/sparserun/sparserun/sparse"
)

func TestAttention(t *testing.T) { runChecks(t, attentionChecks()) }

// geometry of an attention problem.
type geometry struct {
	heads, kvheads, headdim, pagesize, window int
	lengths                                   []int // tokens that each sequence has cached
}

func (g geometry) String() string {
	return fmt.Sprintf("h%d/%d/d%d/p%d/w%d/%v", g.heads, g.kvheads, g.headdim, g.pagesize, g.window, g.lengths)
}

func attentionChecks() []check {
	var cs []check
	for _, t := range []sparse.DType{f32, f16} {
		name := "attention_" + t.String()
		for _, g := range []geometry{
			{8, 4, 8, 16, 0, []int{1, 5}}, {1, 1, 8, 4, 1, []int{6}}, {3, 1, 64, 7, 0, []int{40}}, {2, 2, 33, 4, 9, []int{30, 3}},
			{4, 1, 128, 16, 0, []int{17}}, {1, 1, 256, 3, 0, []int{10}},
		} {
			cs = append(cs, check{name + "/" + g.String(), []string{name}, func(r *rig) error { return checkNaive(r, t, g) }})
		}
		cs = append(cs, check{"kv_write_" + t.String(), []string{"kv_write_" + t.String()}, func(r *rig) error { return checkKVWrite(r, t) }})
	}
	for _, splits := range []int{1, 2, 5} {
		cs = append(cs, check{fmt.Sprintf("attention_combine_f16/%d", splits), []string{"attention_combine_f16"},
			func(r *rig) error { return checkCombine(r, 3, 2, 140, splits) }})
	}
	for _, hd := range []int{64, 128} {
		for _, q := range []int{1, 4, 8} {
			name := fmt.Sprintf("attention_decode_f16_hd%d_g%d", hd, q)
			for _, g := range []geometry{
				{2 * q, 2, hd, 16, 0, []int{1, 75}}, {max(q-1, 1), 1, hd, 5, 0, []int{33}}, {q, 1, hd, 16, 20, []int{90, 7}},
			} {
				cs = append(cs, check{name + "/" + g.String(), []string{name}, func(r *rig) error { return checkDecode(r, name, g, 1) }})
			}
			g := geometry{2 * q, 2, hd, 16, 0, []int{3, 130}}
			cs = append(cs, check{name + "/split/" + g.String(), []string{name, "attention_combine_f16"},
				func(r *rig) error { return checkDecode(r, name, g, 4) }})
		}
		name := fmt.Sprintf("attention_prefill_f16_hd%d", hd)
		for _, g := range []geometry{
			{2, 1, hd, 16, 0, []int{1}}, {3, 3, hd, 16, 0, []int{64, 30}}, {2, 2, hd, 7, 0, []int{150}}, {2, 1, hd, 16, 40, []int{130, 65}}, {1, 1, hd, 16, 1, []int{70}},
		} {
			cs = append(cs, check{name + "/" + g.String(), []string{name}, func(r *rig) error { return checkPrefill(r, name, g) }})
		}
	}
	return cs
}

// problem is a filled cache and rows that ask it.
type problem struct {
	geometry
	t               sparse.DType
	k, v            [][]float64 // by sequence: [length, kvheads, headdim]
	table           []int32
	maxpages, pages int
	pk, pv, pt      ptxPtr
	pos, seq        []int32
	q               *grid
	pq, ppos, pseq  ptxPtr
	ldo             int
	scale           float32
}

// newProblem fills the pages of every sequence, in shuffled order; what no token fills is NaN.
func newProblem(r *rig, t sparse.DType, g geometry) *problem {
	p := &problem{geometry: g, t: t, scale: float32(1 / math.Sqrt(float64(g.headdim)))}
	need := 0
	for _, n := range g.lengths {
		need += (n + g.pagesize - 1) / g.pagesize
		p.maxpages = max(p.maxpages, (n+g.pagesize-1)/g.pagesize+1)
	}
	p.pages = need + 2
	free := r.rng.Perm(p.pages)
	width := g.kvheads * g.headdim
	size := p.pages * g.pagesize * width
	kc, vc := &grid{t, 1, size, size, make([]float64, size)}, &grid{t, 1, size, size, make([]float64, size)}
	for i := range kc.v {
		kc.v[i], vc.v[i] = math.NaN(), math.NaN()
	}
	for _, n := range g.lengths {
		row := make([]int32, p.maxpages)
		for i := range row {
			row[i] = -1
		}
		k, v := make([]float64, n*width), make([]float64, n*width)
		for pos := range n {
			if pos%g.pagesize == 0 {
				row[pos/g.pagesize], free = int32(free[0]), free[1:]
			}
			at := (int(row[pos/g.pagesize])*g.pagesize + pos%g.pagesize) * width
			for j := range width {
				k[pos*width+j], v[pos*width+j] = round(t, r.rng.NormFloat64()), round(t, r.rng.NormFloat64())
				kc.v[at+j], vc.v[at+j] = k[pos*width+j], v[pos*width+j]
			}
		}
		p.k, p.v, p.table = append(p.k, k), append(p.v, v), append(p.table, row...)
	}
	p.pk, p.pv, p.pt = kc.upload(r), vc.upload(r), up(r, p.table)
	return p
}

// ask sets the rows that query the cache.
func (p *problem) ask(r *rig, pos, seq []int32) {
	p.pos, p.seq = pos, seq
	p.q = r.values(p.t, len(pos), p.heads*p.headdim, p.heads*p.headdim+8, 1)
	p.pq, p.ppos, p.pseq = p.q.upload(r), up(r, pos), up(r, seq)
	p.ldo = p.heads*p.headdim + 2
}

// compare computes attention in float64; pErr is the relative error of a stored weight.
func (p *problem) compare(r *rig, out ptxPtr, pErr float64) error {
	rows, width := len(p.pos), p.heads*p.headdim
	got, err := download(r, out, p.t, rows, width, p.ldo)
	if err != nil {
		return err
	}
	want := &grid{p.t, rows, width, width, make([]float64, rows*width)}
	tol := &grid{p.t, rows, width, width, make([]float64, rows*width)}
	for i := range rows {
		for h := range p.heads {
			if p.seq[i] >= 0 {
				p.head(i, h, want.v[i*width+h*p.headdim:], tol.v[i*width+h*p.headdim:], pErr)
			}
		}
	}
	return near(got, want.at, func(i, j int) float64 { return tol.at(i, j) + store(p.t, want.at(i, j)) })
}

func (p *problem) head(i, h int, want, tol []float64, pErr float64) {
	end, lo := int(p.pos[i])+1, 0
	if p.window > 0 {
		lo = max(0, end-p.window)
	}
	k, v, kvh, width := p.k[p.seq[i]], p.v[p.seq[i]], h/(p.heads/p.kvheads), p.kvheads*p.headdim
	scores := make([]float64, end)
	top, worst := math.Inf(-1), 0.
	for pos := lo; pos < end; pos++ {
		var size float64
		for d := range p.headdim {
			x := p.q.at(i, h*p.headdim+d) * k[pos*width+kvh*p.headdim+d] * float64(p.scale)
			scores[pos] += x
			size += math.Abs(x)
		}
		top = math.Max(top, scores[pos])
		worst = math.Max(worst, float64(p.headdim+8)*0x1p-24*size)
	}
	var sum float64
	for pos := lo; pos < end; pos++ {
		scores[pos] = math.Exp(scores[pos] - top)
		sum += scores[pos]
	}
	for d := range p.headdim {
		var size float64
		for pos := lo; pos < end; pos++ {
			x := scores[pos] / sum * v[pos*width+kvh*p.headdim+d]
			want[d] += x
			size += math.Abs(x)
		}
		// Errors of the scores shift weights by 2 worst; each rescaling of the online softmax
		// adds a special-function error; sums add theirs.
		tol[d] = (2*worst + 8*special + float64(end-lo)*0x1p-23 + pErr) * size
	}
}

// mixed are rows that ask at the ends and inside of sequences, and one dead row.
func (g geometry) mixed(r *rig) (pos, seq []int32) {
	for s, n := range g.lengths {
		for _, p := range []int{n - 1, 0, r.rng.IntN(n)} {
			pos, seq = append(pos, int32(p)), append(seq, int32(s))
		}
	}
	return append(pos, 0), append(seq, -1)
}

func checkNaive(r *rig, t sparse.DType, g geometry) error {
	p := newProblem(r, t, g)
	pos, seq := g.mixed(r)
	p.ask(r, pos, seq)
	o := space(r, t, len(pos), g.heads*g.headdim, p.ldo)
	if err := r.run("attention_"+t.String(), dim(len(pos), g.heads), dim(128), 0, o, p.pq, p.pk, p.pv, p.ppos, p.pseq, p.pt,
		p.maxpages, g.pagesize, g.heads, g.kvheads, g.headdim, p.ldo, p.q.ld, g.window, p.scale); err != nil {
		return err
	}
	return p.compare(r, o, 0)
}

func checkDecode(r *rig, name string, g geometry, splits int) error {
	p := newProblem(r, f16, g)
	pos, seq := g.mixed(r)
	p.ask(r, pos, seq)
	o, ws := space(r, f16, len(pos), g.heads*g.headdim, p.ldo), null
	if splits > 1 {
		ws = room[float32](r, splits*len(pos)*g.heads*(g.headdim+2))
	}
	if err := r.run(name, dim(len(pos), g.kvheads, splits), dim(128), 0, o, ws, p.pq, p.pk, p.pv, p.ppos, p.pseq, p.pt,
		p.maxpages, g.pagesize, g.heads, g.kvheads, p.ldo, p.q.ld, g.window, p.scale); err != nil {
		return err
	}
	if splits > 1 {
		if err := r.run("attention_combine_f16", dim(len(pos), g.heads), dim(128), 0, o, ws, splits, g.headdim, p.ldo); err != nil {
			return err
		}
	}
	return p.compare(r, o, 0)
}

// checkCombine joins sums of splits, of which some are empty: split z of row i is when z % 3 == i.
func checkCombine(r *rig, rows, heads, headdim, splits int) error {
	pitch := headdim + 2
	ws := make([]float32, splits*rows*heads*pitch)
	want := make([]float64, rows*heads*headdim)
	size := make([]float64, rows*heads*headdim)
	for i := range rows {
		for h := range heads {
			var total float64
			sums := make([]float64, headdim)
			abs := make([]float64, headdim)
			for z := range splits {
				at := ws[((z*rows+i)*heads+h)*pitch:]
				at[headdim] = float32(math.Inf(-1))
				if z%3 == i {
					continue
				}
				at[headdim], at[headdim+1] = float32(3*r.rng.NormFloat64()), float32(1+9*r.rng.Float64())
				total += math.Exp2(float64(at[headdim])) * float64(at[headdim+1])
				for d := range headdim {
					at[d] = float32(5 * r.rng.NormFloat64())
					sums[d] += math.Exp2(float64(at[headdim])) * float64(at[d])
					abs[d] += math.Exp2(float64(at[headdim])) * math.Abs(float64(at[d]))
				}
			}
			for d := range headdim {
				if total > 0 {
					want[(i*heads+h)*headdim+d], size[(i*heads+h)*headdim+d] = sums[d]/total, abs[d]/total
				}
			}
		}
	}
	width := heads * headdim
	o := space(r, f16, rows, width, width+1)
	if err := r.run("attention_combine_f16", dim(rows, heads), dim(128), 0, o, up(r, ws), splits, headdim, width+1); err != nil {
		return err
	}
	got, err := download(r, o, f16, rows, width, width+1)
	if err != nil {
		return err
	}
	return near(got, func(i, j int) float64 { return want[i*width+j] },
		func(i, j int) float64 { return 4*special*size[i*width+j] + store(f16, want[i*width+j]) })
}

// checkPrefill asks with every token of every sequence, in tiles of at most 64 rows, and
// with the tail of one.
func checkPrefill(r *rig, name string, g geometry) error {
	p := newProblem(r, f16, g)
	var pos, seq, tiles []int32
	add := func(s, from, to int) {
		for from < to {
			n := min(64, to-from)
			tiles = append(tiles, int32(len(pos)), int32(n))
			for i := range n {
				pos, seq = append(pos, int32(from+i)), append(seq, int32(s))
			}
			from += n
		}
	}
	for s, n := range g.lengths {
		add(s, 0, n)
	}
	add(0, max(0, g.lengths[0]-5), g.lengths[0])
	p.ask(r, pos, seq)
	o := space(r, f16, len(pos), g.heads*g.headdim, p.ldo)
	if err := r.run(name, dim(len(tiles)/2, g.heads), dim(128), 5*64*g.headdim*2, o, p.pq, p.pk, p.pv, up(r, tiles), p.ppos, p.pseq,
		p.pt, p.maxpages, g.pagesize, g.heads, g.kvheads, p.ldo, p.q.ld, g.window, p.scale); err != nil {
		return err
	}
	if d := r.d.LastStats().MaxDegree(); d != 1 {
		return fmt.Errorf("bank conflicts: degree %d, want 1: %v", d, r.d.LastStats().Shared)
	}
	return p.compare(r, o, 0x1p-11) // weights are f16 in the second product
}

func checkKVWrite(r *rig, t sparse.DType) error {
	pages, pagesize, width, maxpages := 5, 3, 10, 3
	table := []int32{4, 1, -1, 0, 3, 2}
	pos, seq := []int32{0, 4, 5, 8, 2, 7, 0}, []int32{0, 0, 1, 1, -1, 0, 1} // (0, 7) has no page
	k, v := r.values(t, len(pos), width, width+1, 1), r.values(t, len(pos), width, width+3, 1)
	n := pages * pagesize * width
	pk, pv := space(r, t, 1, n, n), space(r, t, 1, n, n)
	if err := r.run("kv_write_"+t.String(), dim(len(pos)), dim(32), 0, pk, pv, k.upload(r), v.upload(r), up(r, pos), up(r, seq),
		up(r, table), maxpages, pagesize, width, width+1, width+3); err != nil {
		return err
	}
	owner := make([]int, pages*pagesize)
	for i := range owner {
		owner[i] = -1
	}
	for i := range pos {
		if seq[i] >= 0 && table[int(seq[i])*maxpages+int(pos[i])/pagesize] >= 0 {
			owner[int(table[int(seq[i])*maxpages+int(pos[i])/pagesize])*pagesize+int(pos[i])%pagesize] = i
		}
	}
	for c, cache := range []ptxPtr{pk, pv} {
		from := []*grid{k, v}[c]
		for slot, i := range owner {
			at := cache + ptxPtr(slot*width*int(t.Bits()/8))
			got, err := download(r, at, t, 1, width, width)
			if i < 0 {
				if err == nil {
					return fmt.Errorf("slot %d was written", slot)
				}
				continue
			}
			if err != nil {
				return fmt.Errorf("slot %d: %w", slot, err)
			}
			if err := near(got, func(_, j int) float64 { return from.at(i, j) }, func(_, _ int) float64 { return 0 }); err != nil {
				return fmt.Errorf("slot %d: %w", slot, err)
			}
		}
	}
	return nil
}
