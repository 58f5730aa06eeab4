package experiment

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/train"
)

// Lottery is the plan of Frankle & Carbin 2019 on LeNet-300-100: Glorot normal weights, Adam at
// 1.2e-3, batches of 60; every round prunes, in each layer, a fifth of the survivors (a
// tenth in the last), by size, and puts what is left back to where it began.
type Lottery struct {
	Seeds int
	// Rounds at which tickets are measured; the chain goes on to the last. Round 0 is the dense network.
	Rounds []int
	Steps  int // of a measured run (the paper: 50,000)
	Short  int // of a round that only prunes (the paper: 50,000)
	Every  int // steps between evaluations on the held-back images (the paper: 100)
	// Rewind, if not 0, makes a second chain that goes back to the weights after so many steps of the
	// dense run (Frankle et al. 2020), for the first RewindSeeds seeds and rounds up to RewindTo.
	Rewind, RewindSeeds, RewindTo int
	Samples                       int // 0: all of the training images
}

// FullLottery measures rounds 3, 7 and 15, which keep 51.3, 21.1 and 3.6 %.
func FullLottery() Lottery {
	return Lottery{Seeds: 5, Rounds: []int{0, 3, 7, 15}, Steps: 5000, Short: 2500, Every: 100, Rewind: 250, RewindSeeds: 3, RewindTo: 7}
}

// QuickLottery goes to 21.1 % on a few images.
func QuickLottery() Lottery {
	return Lottery{Seeds: 1, Rounds: []int{0, 7}, Steps: 600, Short: 300, Every: 50, Samples: 10000}
}

// Kinds of runs.
const (
	Ticket     = "winning ticket"    // back to initialisation
	Rewound    = "rewound to step k" // back to step k of the dense run
	Reinit     = "random re-init"    // the ticket's masks, new weights
	RandomMask = "random mask"       // as many weights in each layer, at random, the ticket's initialisation
	DenseRun   = "dense"
)

// LotteryRun is one trained network.
type LotteryRun struct {
	Kind      string             `json:"kind"`
	Seed      uint64             `json:"seed"`
	Round     int                `json:"round"`
	Kept      float64            `json:"kept"`       // share of the weights of all matrices
	EarlyStop int                `json:"early_stop"` // step of the smallest loss on the held-back images
	AtStop    float64            `json:"accuracy_at_stop"`
	AtEnd     float64            `json:"accuracy_at_end"`
	Curve     []train.Evaluation `json:"curve,omitempty"` // on the held-back images
}

// lotteryCell is what the journal keeps of a round: the run, if it was measured, and the masks
// for the next one.
type lotteryCell struct {
	Run  LotteryRun `json:"run"`
	Next []bits     `json:"next"`
}

// bits are the words of a mask.
type bits []uint64

// MarshalJSON implements json.Marshaler: base64 of little-endian bytes.
func (b bits) MarshalJSON() ([]byte, error) {
	raw := make([]byte, 0, 8*len(b))
	for _, x := range b {
		raw = binary.LittleEndian.AppendUint64(raw, x)
	}
	return json.Marshal(raw)
}

// UnmarshalJSON implements json.Unmarshaler.
func (b *bits) UnmarshalJSON(j []byte) error {
	var raw []byte
	if err := json.Unmarshal(j, &raw); err != nil {
		return err
	}
	*b = make(bits, len(raw)/8)
	for i := range *b {
		(*b)[i] = binary.LittleEndian.Uint64(raw[8*i:])
	}
	return nil
}

func (b bits) mask(rows, cols int) (*sparse.Mask, error) {
	m := sparse.NewMask(rows, cols)
	if len(m.Bits) != len(b) {
		return nil, fmt.Errorf("experiment: mask of %d words: want %d: %w", len(b), len(m.Bits), ErrOption)
	}
	copy(m.Bits, b)
	return m, nil
}

// nextRound masks of every matrix what this round prunes: exactly a share of the survivors, the
// smallest; equal ones go by position.
func nextRound(targets []*train.Param) []bits {
	var out []bits
	for i, p := range targets {
		share := 0.2
		if i == len(targets)-1 {
			share = 0.1
		}
		var alive []int
		for at := range p.W {
			if m := p.Mask(); m == nil || m.Kept(at/p.Cols, at%p.Cols) {
				alive = append(alive, at)
			}
		}
		slices.SortStableFunc(alive, func(a, b int) int {
			x, y := math.Abs(float64(p.W[a])), math.Abs(float64(p.W[b]))
			switch {
			case x < y:
				return -1
			case x > y:
				return 1
			}
			return 0
		})
		m := sparse.NewMask(p.Rows, p.Cols)
		for _, at := range alive[int(math.Round(share*float64(len(alive)))):] {
			m.Keep(at/p.Cols, at%p.Cols)
		}
		out = append(out, bits(m.Bits))
	}
	return out
}

func setBits(targets []*train.Param, masks []bits) error {
	for i, p := range targets {
		m, err := masks[i].mask(p.Rows, p.Cols)
		if err != nil {
			return err
		}
		if err := p.SetMask(m); err != nil {
			return err
		}
	}
	return nil
}

// shuffled has as many weights of each matrix as masks, anywhere.
func shuffled(targets []*train.Param, masks []bits, seed uint64) ([]bits, error) {
	rng := rand.New(rand.NewPCG(seed, 0x107))
	var out []bits
	for i, p := range targets {
		old, err := masks[i].mask(p.Rows, p.Cols)
		if err != nil {
			return nil, err
		}
		m := sparse.NewMask(p.Rows, p.Cols)
		for _, at := range rng.Perm(len(p.W))[:old.Count()] {
			m.Keep(at/p.Cols, at%p.Cols)
		}
		out = append(out, bits(m.Bits))
	}
	return out, nil
}

func (p Lottery) String() string {
	return fmt.Sprintf("steps %d short %d every %d samples %d", p.Steps, p.Short, p.Every, p.Samples)
}

// Lottery runs a plan, one task for each chain.
func (l *Lab) Lottery(ctx context.Context, p Lottery) ([]LotteryRun, error) {
	if len(p.Rounds) == 0 || p.Rounds[0] != 0 || !slices.IsSorted(p.Rounds) || p.Steps < 1 || p.Short < 1 || p.Every < 1 {
		return nil, fmt.Errorf("experiment: lottery ticket: want round 0 and rising rounds, steps and evaluations, got %+v: %w", p, ErrOption)
	}
	var mu sync.Mutex
	results := map[string][]LotteryRun{}
	add := func(r LotteryRun) {
		mu.Lock()
		k := fmt.Sprintf("%02d %s", r.Round, r.Kind)
		results[k] = append(results[k], r)
		mu.Unlock()
	}
	var tasks []task
	per := float64(60 * (p.Steps + p.Steps/p.Every*l.Valid.Len()/3/60)) // evaluations are forward passes
	measured := len(p.Rounds) - 1
	last := p.Rounds[measured]
	for s := range p.Seeds {
		seed := uint64(s + 1)
		work := per*float64(1+3*measured) + float64(60*p.Short*(last-measured))
		tasks = append(tasks, task{fmt.Sprintf("lottery seed %d", seed), work, func(ctx context.Context) error { return l.chain(ctx, p, seed, 0, last, per, add) }})
	}
	if p.Rewind > 0 {
		upTo := slices.IndexFunc(p.Rounds, func(r int) bool { return r > p.RewindTo })
		if upTo < 0 {
			upTo = len(p.Rounds)
		}
		for s := range min(p.RewindSeeds, p.Seeds) {
			seed := uint64(s + 1)
			work := per*float64(upTo-1) + float64(60*p.Short*(p.RewindTo-upTo+1)+60*(p.Steps+p.Rewind))
			tasks = append(tasks, task{fmt.Sprintf("lottery seed %d rewound", seed), work, func(ctx context.Context) error {
				return l.chain(ctx, p, seed, p.Rewind, p.RewindTo, per, add)
			}})
		}
	}
	err := l.work(ctx, tasks)
	var out []LotteryRun
	keys := make([]string, 0, len(results))
	for k := range results {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		slices.SortFunc(results[k], func(a, b LotteryRun) int { return int(a.Seed) - int(b.Seed) })
		out = append(out, results[k]...)
	}
	return out, err
}

// chain prunes round after round from one seed. With rewind 0 it also measures the controls.
func (l *Lab) chain(ctx context.Context, p Lottery, seed uint64, rewind, last int, per float64, add func(LotteryRun)) error {
	kind := Ticket
	if rewind > 0 {
		kind = fmt.Sprintf("%s (k = %d)", Rewound, rewind)
	}
	n, _, err := network("lenet-300-100", seed)
	if err != nil {
		return err
	}
	initial := weightsOf(n)
	start := initial
	name := fmt.Sprintf("lottery seed %d rewind %d %v", seed, rewind, p)
	if rewind > 0 {
		start, err = cell(l, name+" start", float64(60*rewind), func() ([]floats, error) {
			_, err := l.race(ctx, p, n, seed, rewind, 0, false)
			return weightsOf(n), err
		})
		if err != nil {
			return err
		}
	}
	var masks []bits
	for round := 0; round <= last; round++ {
		measure := slices.Contains(p.Rounds, round)
		steps, skip, work, from, key := p.Short, rewind, float64(60*p.Short), start, name
		if measure {
			steps, work = p.Steps, per
		}
		if round == 0 { // the dense run is the same in both chains
			from, skip, key = initial, 0, fmt.Sprintf("lottery seed %d rewind 0 %v", seed, p)
		}
		c, err := cell(l, fmt.Sprintf("%s round %d measured %v", key, round, measure), work, func() (lotteryCell, error) {
			return l.round(ctx, p, n, from, masks, lotteryCell{Run: LotteryRun{Kind: kind, Seed: seed, Round: round}}, seed, steps, skip, measure)
		})
		if err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if c.Run.Kind = kind; round == 0 {
			c.Run.Kind = DenseRun
		}
		if measure && (round > 0 || rewind == 0) {
			add(c.Run)
		}
		if measure && round > 0 && rewind == 0 {
			if err := l.controls(ctx, p, seed, round, masks, start, name, per, add); err != nil {
				return fmt.Errorf("round %d: %w", round, err)
			}
		}
		masks = c.Next
	}
	return nil
}

// controls are the runs that a ticket is compared with: its masks with other weights, its weights
// with other masks.
func (l *Lab) controls(ctx context.Context, p Lottery, seed uint64, round int, masks []bits, start []floats, name string, per float64, add func(LotteryRun)) error {
	for _, kind := range []string{Reinit, RandomMask} {
		c, err := cell(l, fmt.Sprintf("%s round %d %s", name, round, kind), per, func() (lotteryCell, error) {
			n, _, err := network("lenet-300-100", seed)
			if err != nil {
				return lotteryCell{}, err
			}
			from, masks := start, masks
			if kind == Reinit {
				other, _, err := network("lenet-300-100", seed+1000*uint64(round)+1_000_000)
				if err != nil {
					return lotteryCell{}, err
				}
				from = weightsOf(other)
			} else if masks, err = shuffled(n.Prunable(), masks, seed+1000*uint64(round)); err != nil {
				return lotteryCell{}, err
			}
			c, err := l.round(ctx, p, n, from, masks, lotteryCell{Run: LotteryRun{Kind: kind, Seed: seed, Round: round}}, seed, p.Steps, 0, true)
			c.Next = nil
			return c, err
		})
		if errors.Is(err, errMissing) {
			continue
		}
		if err != nil {
			return err
		}
		add(c.Run)
	}
	return nil
}

// round trains once from start under masks.
func (l *Lab) round(ctx context.Context, p Lottery, n *train.Net, start []floats, masks []bits, c lotteryCell, seed uint64, steps, skip int, measure bool) (lotteryCell, error) {
	targets := n.Prunable()
	for _, t := range targets {
		if err := t.SetMask(nil); err != nil {
			return c, err
		}
	}
	if masks != nil {
		if err := setBits(targets, masks); err != nil {
			return c, err
		}
	}
	if err := load(n, start); err != nil {
		return c, err
	}
	kept, all := 0, 0
	for _, t := range targets {
		all += len(t.W)
		kept += len(t.W)
		if m := t.Mask(); m != nil {
			kept += m.Count() - len(t.W)
		}
	}
	c.Run.Kept = float64(kept) / float64(all)
	r, err := l.race(ctx, p, n, seed, steps-skip, skip, measure)
	if err != nil {
		return c, err
	}
	c.Run.EarlyStop, c.Run.AtStop, c.Run.AtEnd, c.Run.Curve = r.EarlyStop, r.AtStop, r.AtEnd, r.Curve
	if measure {
		l.say("%s seed %d, %.1f %% kept: early stop at %d, %.2f %% there, %.2f %% at the end", c.Run.Kind, seed, 100*c.Run.Kept, r.EarlyStop, 100*r.AtStop, 100*r.AtEnd)
	}
	c.Next = nextRound(targets)
	return c, nil
}

// race trains for some steps and, if measured, finds the step of the smallest loss on the
// held-back images and the test accuracy there and at the end. It leaves the last weights.
func (l *Lab) race(ctx context.Context, p Lottery, n *train.Net, seed uint64, steps, skip int, measure bool) (LotteryRun, error) {
	var r LotteryRun
	o := train.Options{Steps: steps, Batch: 60, Rate: 1.2e-3, Seed: seed}
	if measure {
		o.Eval, o.EvalEvery, o.EvalBatch = l.Valid, p.Every, 500
	}
	var best *train.Snapshot
	low := math.Inf(1)
	extra := float64(l.Valid.Len()) / 3
	_, err := train.Fit(ctx, n, l.trainSet(p.Samples), o, func(t train.Progress) {
		work := 60.0
		if e := t.Eval; e != nil {
			work += extra
			r.Curve = append(r.Curve, train.Evaluation{Step: skip + e.Step, Loss: e.Loss, Value: e.Value})
			if e.Loss < low {
				low, best, r.EarlyStop = e.Loss, n.Snapshot(), skip+e.Step
			}
		}
		l.did(work, "lottery ticket")
	})
	if err != nil || !measure {
		return r, err
	}
	end, err := l.test(n)
	if err != nil {
		return r, err
	}
	last := n.Snapshot()
	if err := n.Restore(best); err != nil {
		return r, err
	}
	stop, err := l.test(n)
	if err != nil {
		return r, err
	}
	r.AtEnd, r.AtStop = 1-end, 1-stop
	return r, n.Restore(last)
}
