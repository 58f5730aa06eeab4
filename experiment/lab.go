package experiment

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/train"
)

// Lab is what experiments share: MNIST split into 55,000 images to train on, the last 5,000 of
// the training file to choose by, and the test images, which no run chooses by (the recipes were
// found in trials that showed both). Pixels are normalised to mean 0.1307 and deviation 0.3081.
type Lab struct {
	Train, Valid, Test *train.Items
	Journal            *Journal
	// Jobs runs go on side by side, each on one thread: for networks this small that makes more of
	// two cores than one run on both. It never changes a result.
	Jobs int
	// Offline runs nothing: results are of what the journal has.
	Offline  bool
	Log      func(string)
	Progress func(LabProgress)

	// whole is MNIST as Deep Compression takes it: all training images, pixels 0..1.
	whole func() (*train.MNIST, error)
	meter meter
}

// LabProgress says how far the runs of an experiment are.
type LabProgress struct {
	Share float64 // 0..1 of the work
	Left  time.Duration
	What  string
}

// OpenLab reads MNIST from a folder.
func OpenLab(dir string, j *Journal, jobs int) (*Lab, error) {
	m, err := train.OpenMNIST(dir)
	if err != nil {
		return nil, err
	}
	if n := m.Train.Len(); n < 6000 {
		return nil, fmt.Errorf("experiment: %s: want at least 6,000 training images, got %d: %w", dir, n, ErrOption)
	}
	m.Train.Normalise(0.1307, 0.3081)
	m.Test.Normalise(0.1307, 0.3081)
	n := m.Train.Len()
	return &Lab{Train: m.Train.Slice(0, n-5000), Valid: m.Train.Slice(n-5000, n), Test: m.Test, Journal: j, Jobs: max(1, jobs),
		whole: sync.OnceValues(func() (*train.MNIST, error) { return train.OpenMNIST(dir) })}, nil
}

func (l *Lab) say(format string, a ...any) {
	if l.Log != nil {
		l.Log(fmt.Sprintf(format, a...))
	}
}

// test is the error on the test images, 0..1.
func (l *Lab) test(n *train.Net) (float64, error) {
	v, err := train.Evaluate(n, l.Test, 500)
	return 1 - v.Accuracy(), err
}

// task is a chain of runs that need one another; work is its share in the meter's units, one
// sample's forward and backward pass through LeNet-300-100.
type task struct {
	name string
	work float64
	run  func(context.Context) error
}

// meter estimates the time left from the work that this process has done itself: what came
// out of the journal took no time.
type meter struct {
	mu            sync.Mutex
	total         float64
	fresh, cached float64
	begin         time.Time
}

func (l *Lab) did(work float64, what string) {
	m := &l.meter
	m.mu.Lock()
	m.fresh += work
	left := time.Duration(0)
	if m.fresh > 0 {
		left = time.Duration(float64(time.Since(m.begin)) / m.fresh * math.Max(0, m.total-m.cached-m.fresh))
	}
	share := math.Min(1, (m.fresh+m.cached)/math.Max(1, m.total))
	m.mu.Unlock()
	if l.Progress != nil {
		l.Progress(LabProgress{share, left, what})
	}
}

// errMissing: the journal lacks a run, and Offline forbids to make it.
var errMissing = errors.New("not in the journal")

// cell is once with the meter: what the journal has already counts as work that took no time.
func cell[T any](l *Lab, key string, work float64, f func() (T, error)) (T, error) {
	return cellOf(l, l.Journal, key, work, f)
}

// cellOf is cell with a journal of its own.
func cellOf[T any](l *Lab, j *Journal, key string, work float64, f func() (T, error)) (T, error) {
	if l.Offline {
		f = func() (v T, err error) { return v, errMissing }
	}
	ran := false
	v, err := once(j, key, func() (T, error) { ran = true; return f() })
	if !ran {
		l.meter.mu.Lock()
		l.meter.cached += work
		l.meter.mu.Unlock()
	}
	return v, err
}

// work runs tasks, Jobs at a time; the first error ends the others.
func (l *Lab) work(ctx context.Context, tasks []task) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	l.meter = meter{begin: time.Now()}
	for _, t := range tasks {
		l.meter.total += t.work
	}
	next := make(chan task)
	errs := make(chan error, l.Jobs)
	for range l.Jobs {
		go func() {
			for t := range next {
				if err := t.run(ctx); err != nil && !errors.Is(err, errMissing) {
					errs <- fmt.Errorf("%s: %w", t.name, err)
					stop()
					return
				}
			}
			errs <- nil
		}()
	}
	go func() {
		defer close(next)
		for _, t := range tasks {
			select {
			case next <- t:
			case <-ctx.Done():
				return
			}
		}
	}()
	var first error
	for range l.Jobs {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	if first == nil {
		first = ctx.Err()
	}
	return first
}

// network makes one of the two LeNets and says what a sample costs in the meter's units (measured).
func network(name string, seed uint64) (*train.Net, float64, error) {
	var g *model.Graph
	cost := 1.0
	switch name {
	case "lenet-300-100":
		g = train.LeNet300100(seed)
	case "lenet-5":
		g, cost = train.LeNet5(seed), 13
	default:
		return nil, 0, fmt.Errorf("experiment: network %.40q: want lenet-300-100 or lenet-5: %w", name, ErrOption)
	}
	n, err := train.New(g, linalg.NewPool(1))
	return n, cost, err
}

// floats are float32 numbers, base64 of little-endian bytes in JSON.
type floats []float32

// MarshalJSON implements json.Marshaler.
func (f floats) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, 4*len(f))
	for _, x := range f {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return json.Marshal(base64.StdEncoding.EncodeToString(b))
}

// UnmarshalJSON implements json.Unmarshaler.
func (f *floats) UnmarshalJSON(j []byte) error {
	var s string
	if err := json.Unmarshal(j, &s); err != nil {
		return err
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b)%4 != 0 {
		return fmt.Errorf("experiment: %d bytes of weights: %w", len(b), ErrOption)
	}
	*f = make(floats, len(b)/4)
	for i := range *f {
		(*f)[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return nil
}

// weightsOf are a network's parameters, in order.
func weightsOf(n *train.Net) []floats {
	var out []floats
	for _, p := range n.Params {
		out = append(out, append(floats(nil), p.W...))
	}
	return out
}

// load puts weights back, those of masked positions stay zero.
func load(n *train.Net, w []floats) error {
	if len(w) != len(n.Params) {
		return fmt.Errorf("experiment: %d weights for %d parameters: %w", len(w), len(n.Params), ErrOption)
	}
	for i, p := range n.Params {
		if len(w[i]) != len(p.W) {
			return fmt.Errorf("experiment: %q: want %d weights, got %d: %w", p.Name, len(p.W), len(w[i]), ErrOption)
		}
		copy(p.W, w[i])
		if err := p.SetMask(p.Mask()); err != nil {
			return err
		}
	}
	return nil
}

// Footprint is how large a network is. Parameters are weights and biases; Kept are the biases and
// the weights that are not zero. Bytes are what the network occupies in this project's memory
// format with float32 values: of each matrix the smallest of dense, bitmask and CSR, 4 bytes
// for a bias.
type Footprint struct {
	Parameters int         `json:"parameters"`
	Kept       int         `json:"kept"`
	DenseBytes int64       `json:"dense_bytes"`
	Bytes      int64       `json:"bytes"`
	Layers     []LayerKept `json:"layers"`
}

// LayerKept is a matrix and the share of its weights that is not zero.
type LayerKept struct {
	Name string  `json:"name"`
	Kept float64 `json:"kept"`
}

// FootprintRule says in one line how Footprint counts.
const FootprintRule = "Parameters are weights and biases; kept are all biases and the weights that are not zero. Bytes: float32 values with their index, of each matrix the smallest of dense, bitmask (one bit a weight) and CSR; biases 4 bytes each."

// Fewer is the compression in parameters.
func (f Footprint) Fewer() float64 { return float64(f.Parameters) / float64(max(1, f.Kept)) }

// Smaller is the compression in bytes.
func (f Footprint) Smaller() float64 { return float64(f.DenseBytes) / float64(max(1, f.Bytes)) }

func footprint(n *train.Net) (Footprint, error) {
	var f Footprint
	for _, p := range n.Params {
		f.Parameters += len(p.W)
		f.DenseBytes += 4 * int64(len(p.W))
		if p.Rows == 1 {
			f.Kept += len(p.W)
			f.Bytes += 4 * int64(len(p.W))
			continue
		}
		kept := 0
		for _, x := range p.W {
			if x != 0 {
				kept++
			}
		}
		f.Kept += kept
		f.Layers = append(f.Layers, LayerKept{p.Name, float64(kept) / float64(len(p.W))})
		least := 4 * int64(len(p.W))
		d := sparse.NewDense(p.Rows, p.Cols, p.W)
		for _, layout := range []sparse.Layout{sparse.LayoutBitmask, sparse.LayoutCSR} {
			m, err := sparse.Pack(d, layout, sparse.F32, 0)
			if err != nil {
				return f, fmt.Errorf("experiment: %q: %w", p.Name, err)
			}
			least = min(least, m.Bytes().Total())
		}
		f.Bytes += least
	}
	return f, nil
}

// sparsityFor is the sparsity of the matrices at which a network has factor times fewer parameters.
func sparsityFor(n *train.Net, factor float64) float64 {
	weights, biases := 0, 0
	for _, p := range n.Params {
		if p.Rows == 1 {
			biases += len(p.W)
		} else {
			weights += len(p.W)
		}
	}
	keep := int(float64(weights+biases)/factor) - biases
	return 1 - float64(max(0, keep))/float64(weights)
}
