package cuda

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// program is a compiled plan on the device.
type program struct {
	b    *Backend
	d    Driver
	plan *runtime.Plan
	mu   sync.Mutex

	inputs   []runtime.Input
	act      sparse.DType // of activations: F16, or F32
	buffers  []Ptr        // by plan buffer; inputs have int32
	steps    []step
	weights  []*weight // by plan step, nil where there is none
	kv       [][2]Ptr  // by layer
	vectors  map[*model.Weight]Ptr
	linears  map[*model.Weight]*weight
	tables   map[*float64]rope // RoPE tables by their frequencies
	sums     Ptr               // scratch: of tile products whose k is split
	tickets  Ptr               // scratch: how many blocks of a tile are done
	codes    Ptr               // scratch: converted activations
	codesS   Ptr               // their scales (int8)
	attn     attnScratch
	maxPages int
	held     []Ptr

	rowMajor bool // no tiles: see Backend.RowMajor
	alone    bool // every Linear converts its own input (timing)
	// While compiling: the buffer whose converted form is in codes, and by which kernel.
	converted   Ptr
	convertedBy string
	staging     Ptr
	stageBytes  int64

	deviceBytes, workspace, kvBytes int64
	usedPages                       map[int32]bool
	replay                          map[int]Replay // one decode step as a graph, by context class
	closed                          bool

	// the batch in flight
	rows, selected int
	single         bool   // no sequence has two rows
	class          int    // the longest context, up to a power of two
	runs           []run  // of rows that one attention kernel takes
	host           []byte // staging
}

// step is one plan step with what it launches.
type step struct {
	s   *runtime.Step
	run func() error
	key runtime.OpKey
	w   *weight
}

type rope struct{ cos, sin Ptr }

const ropeAlign = 16 // elements: rows of activations start 16-byte aligned in every type

func ld(width int) int { return up(width, ropeAlign) }

func (p *program) width(v model.ValueID) int { return p.plan.Graph.Values[v].Width }

func (p *program) compile() error {
	p.act = sparse.F16
	p.inputs = p.plan.Describe()
	p.vectors, p.linears, p.tables = map[*model.Weight]Ptr{}, map[*model.Weight]*weight{}, map[*float64]rope{}
	p.usedPages, p.replay = map[int32]bool{}, map[int]Replay{}
	for _, s := range p.plan.Steps {
		if s.Kernel.Weight == sparse.F32 && (s.Node.Op == model.OpLinear || s.Node.Op == model.OpEmbedding) {
			p.act = sparse.F32
		}
	}
	if err := p.allocate(); err != nil {
		return err
	}
	for i := range p.plan.Steps {
		s := &p.plan.Steps[i]
		st := step{s: s, key: runtime.OpKey{Op: s.Node.Op, Layout: s.Kernel.Layout}}
		var err error
		st.run, st.w, err = p.lower(s)
		if err != nil {
			return fmt.Errorf("cuda: %q: %w", s.Node.Name, err)
		}
		if p.buffers[s.Out] == p.converted {
			p.converted = 0
		}
		p.steps = append(p.steps, st)
		p.weights = append(p.weights, st.w)
	}
	if err := p.freeStage(); err != nil {
		return err
	}
	if err := p.attn.reserve(p); err != nil {
		return err
	}
	return p.scratch()
}

// alloc takes device memory that lives as long as the program.
func (p *program) alloc(n int64) (Ptr, error) {
	a, err := p.d.Alloc(max(n, 16))
	if err != nil {
		return 0, err
	}
	p.held = append(p.held, a)
	p.deviceBytes += n
	return a, nil
}

func (p *program) allocate() error {
	actBytes := int64(elementBits(p.act) / 8)
	p.maxPages = p.plan.KV.Pages
	for _, b := range p.plan.Buffers {
		rows := p.plan.MaxRows
		if b.Selected {
			rows = p.plan.MaxSelect
		}
		n := int64(rows) * int64(ld(b.Width)) * actBytes
		if b.Input >= 0 {
			switch p.inputs[b.Input].Kind {
			case runtime.InputFloats:
			case runtime.InputTables:
				n = 4 * int64(p.plan.MaxRows) * int64(p.maxPages)
			default:
				n = 4 * int64(rows)
			}
		}
		a, err := p.alloc(n)
		if err != nil {
			return err
		}
		// Padding columns must be numbers: kernels multiply them by zero.
		if err := p.d.Memset8(a, 0, max(n, 16)); err != nil {
			return err
		}
		p.workspace += n
		p.buffers = append(p.buffers, a)
	}
	for _, w := range p.plan.KV.Widths {
		n := int64(p.plan.KV.Pages) * int64(p.plan.KV.PageTokens) * int64(w) * actBytes
		var kv [2]Ptr
		for i := range kv {
			a, err := p.alloc(n)
			if err != nil {
				return err
			}
			if err := p.d.Memset8(a, 0, max(n, 16)); err != nil {
				return err
			}
			kv[i] = a
		}
		p.kv = append(p.kv, kv)
		p.kvBytes += 2 * n
	}
	return nil
}

// vector uploads a one-row weight as float32, once.
func (p *program) vector(w *model.Weight) (Ptr, error) {
	if w == nil {
		return 0, nil
	}
	if a, ok := p.vectors[w]; ok {
		return a, nil
	}
	f, err := w.Vector()
	if err != nil {
		return 0, err
	}
	var a Ptr
	if err := p.put(nil, &a, floats(f)); err != nil {
		return 0, err
	}
	p.vectors[w] = a
	return a, nil
}

func floats(f []float32) []byte {
	b := make([]byte, 0, 4*len(f))
	for _, x := range f {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

// Run implements runtime.Program.
func (p *program) Run(ctx context.Context, in, out []runtime.View, c *runtime.Counters) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("cuda: program: %w", runtime.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return p.b.do(func() error { return p.execute(in, out, c) })
}

func (p *program) execute(in, out []runtime.View, c *runtime.Counters) error {
	if err := p.bind(in, out); err != nil {
		return err
	}
	phase := runtime.Prefill
	if p.plan.Graph.Config != nil && p.single {
		phase = runtime.Decode
	}
	start := time.Now()
	var err error
	graph := phase == runtime.Decode && p.rows == 1 && p.selected == 1
	if graph {
		err = p.decodeGraph()
	} else {
		for i := range p.steps {
			if err = p.d.Mark(i); err != nil {
				break
			}
			if err = p.steps[i].run(); err != nil {
				err = fmt.Errorf("cuda: %q: %w", p.steps[i].s.Node.Name, err)
				break
			}
		}
		if err == nil {
			err = p.d.Mark(len(p.steps))
		}
	}
	if err != nil {
		return err
	}
	if err := p.read(out); err != nil {
		return err
	}
	return p.count(c, phase, graph, time.Since(start))
}

// decodeGraph runs a step of one token as a captured graph: its launches are the same
// every time, only the numbers in the input buffers change. Long contexts are split
// over more blocks, so that there is a graph for every class of lengths.
func (p *program) decodeGraph() error {
	r := p.replay[p.class]
	if r == nil {
		var err error
		r, err = p.d.Capture(func() error {
			for _, s := range p.steps {
				if err := s.run(); err != nil {
					return fmt.Errorf("cuda: %q: %w", s.s.Node.Name, err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		p.replay[p.class] = r
	}
	return r.Launch()
}

// read copies the outputs to the host as float32.
func (p *program) read(out []runtime.View) error {
	es := elementBits(p.act) / 8
	for i, b := range p.plan.Outputs {
		w := p.width(p.plan.Graph.Outputs[i])
		n := out[i].Rows * ld(w) * es
		if cap(p.host) < n {
			p.host = make([]byte, n)
		}
		h := p.host[:n]
		if err := p.d.DtoH(h, p.buffers[b]); err != nil {
			return err
		}
		for r := range out[i].Rows {
			row := h[r*ld(w)*es:]
			dst := out[i].F32[r*w : (r+1)*w]
			for c := range dst {
				if es == 2 {
					dst[c] = sparse.F16ToF32(binary.LittleEndian.Uint16(row[2*c:]))
				} else {
					dst[c] = math.Float32frombits(binary.LittleEndian.Uint32(row[4*c:]))
				}
			}
		}
	}
	return nil
}

// count adds the work of a batch. Inside a graph single kernels have no time: the
// graph's time is counted under the op "Graph".
func (p *program) count(c *runtime.Counters, phase runtime.Phase, graph bool, wall time.Duration) error {
	if c == nil {
		return nil
	}
	for i, s := range p.steps {
		k := s.key
		k.Phase = phase
		rows := int64(p.rows)
		if p.plan.Buffers[s.s.Out].Selected {
			rows = int64(p.selected)
		}
		o := runtime.OpCounter{Calls: 1}
		if s.w != nil && s.s.Node.Op == model.OpLinear {
			o.Bytes = s.w.bytes.Total()
			o.DenseBytes = int64(s.w.rows) * int64(s.w.in) * int64(elementBits(s.w.t)) / 8
			o.FLOPs = 2 * s.w.nonzeros * rows
			o.DenseFLOPs = 2 * int64(s.w.rows) * int64(s.w.in) * rows
		}
		if !graph {
			ns, err := p.d.Elapsed(i, i+1)
			if err != nil {
				return err
			}
			o.Time = time.Duration(ns)
		}
		c.Count(k, o)
	}
	if graph {
		c.Count(runtime.OpKey{Op: "Graph", Layout: sparse.LayoutDense, Phase: phase}, runtime.OpCounter{Calls: 1, Time: wall})
	}
	return nil
}

// Memory implements runtime.Program.
func (p *program) Memory() runtime.Memory {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := runtime.Memory{KVCache: p.kvBytes, Workspace: p.workspace, Device: p.deviceBytes}
	seen := map[*weight]bool{}
	for _, w := range p.weights {
		if w != nil && !seen[w] {
			seen[w] = true
			m.Weights = m.Weights.Add(w.bytes)
		}
	}
	for w := range p.vectors {
		_, n := w.Data.Dims()
		m.Weights.Values += 4 * int64(n)
	}
	if p.plan.KV.Pages > 0 {
		m.KVUsed = p.kvBytes / int64(p.plan.KV.Pages) * int64(len(p.usedPages))
	}
	return m
}

// Bytes implements runtime.Program.
func (p *program) Bytes(i int) sparse.Bytes {
	if w := p.weights[i]; w != nil {
		return w.bytes
	}
	return sparse.Bytes{}
}

// Close implements runtime.Program.
func (p *program) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	return p.b.do(p.release)
}

func (p *program) release() error {
	var first error
	for _, r := range p.replay {
		if err := r.Close(); err != nil && first == nil {
			first = err
		}
	}
	if err := p.freeStage(); err != nil && first == nil {
		first = err
	}
	for _, a := range p.held {
		if err := p.d.Free(a); err != nil && first == nil {
			first = err
		}
	}
	p.held = nil
	return first
}
