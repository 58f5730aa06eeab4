package kerneltest

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"unsafe"

	"github.com/sparserun/sparserun/cuda/ptxsim"
	"github.com/sparserun/sparserun/sparse"
)

// check is one conformance check; covers lists the kernels it exercises.
type check struct {
	name   string
	covers []string
	run    func(r *rig) error
}

// rig is a simulated device with the kernels loaded.
type rig struct {
	d    *ptxsim.Device
	mods []*ptxsim.Module // a kernel is taken from the first that has it
	// degree is the worst bank conflict of each kernel so far.
	degree map[string]int
	rng    *rand.Rand
}

// families are the PTX files that the simulator executes (kernels_90a is wgmma).
var families = []string{"80", "89"}

// ptx is the text of cuda/build/kernels_FAMILY.ptx; without it the test is skipped.
func ptx(t testing.TB, family string) string {
	t.Helper()
	name := filepath.Join("..", "build", "kernels_"+family+".ptx")
	text, err := os.ReadFile(name)
	if err != nil {
		if os.Getenv("CI") == "true" && os.Getenv("SPARSERUN_NO_NVCC") == "" {
			t.Fatalf("%v (make cuda-ptx)", err)
		}
		t.Skipf("%v (make cuda-ptx)", err)
	}
	return string(text)
}

// loaded is the device that the conformance tests share.
var loaded struct {
	once sync.Once
	r    *rig
	err  error
}

// newRig loads all families once.
func newRig(t testing.TB) *rig {
	t.Helper()
	var texts []string
	for _, f := range families {
		texts = append(texts, ptx(t, f))
	}
	loaded.once.Do(func() { loaded.r, loaded.err = rigOf(1, texts...) })
	if loaded.err != nil {
		t.Fatal(loaded.err)
	}
	return loaded.r
}

// rigOf makes a device of its own; the seed orders its warps.
func rigOf(seed int64, texts ...string) (*rig, error) {
	cfg := ptxsim.Config{Seed: seed, Stats: true, MaxInstructions: 5e6} // a mutant may loop for ever
	r := &rig{d: ptxsim.NewDevice(cfg), rng: rand.New(rand.NewPCG(uint64(seed), 7)), degree: map[string]int{}}
	for _, text := range texts {
		m, err := r.d.Load(text)
		if err != nil {
			return nil, err
		}
		r.mods = append(r.mods, m)
	}
	return r, nil
}

// kernel finds a kernel by name.
func (r *rig) kernel(name string) (k *ptxsim.Kernel, err error) {
	for _, m := range r.mods {
		if k, err = m.Kernel(name); err == nil {
			return k, nil
		}
	}
	return nil, err
}

// run launches a kernel and waits.
func (r *rig) run(name string, grid, block ptxsim.Dim3, shared int, args ...any) error {
	k, err := r.kernel(name)
	if err != nil {
		return err
	}
	if shared > 48<<10 {
		if err := k.SetMaxDynamicShared(shared); err != nil {
			return err
		}
	}
	for i, a := range args {
		if n, ok := a.(int); ok {
			args[i] = int32(n)
		}
	}
	if err := r.d.Launch(k, grid, block, shared, args...); err != nil {
		r.d.Reset()
		return err
	}
	r.degree[name] = max(r.degree[name], r.d.LastStats().MaxDegree())
	return nil
}

func dim(x ...int) ptxsim.Dim3 {
	d := ptxsim.Dim3{X: x[0], Y: 1, Z: 1}
	if len(x) > 1 {
		d.Y = x[1]
	}
	if len(x) > 2 {
		d.Z = x[2]
	}
	return d
}

// number is what device buffers hold.
type number interface {
	~int8 | ~uint8 | ~uint16 | ~int32 | ~uint32 | ~float32
}

// up copies v to new device memory of exactly its size.
func up[T number](r *rig, v []T) ptxsim.Ptr {
	n := len(v) * int(unsafe.Sizeof(*new(T)))
	p, err := r.d.Alloc(int64(max(n, 1)))
	if err != nil {
		panic(err)
	}
	if n > 0 {
		if err := r.d.HtoD(p, unsafe.Slice((*byte)(unsafe.Pointer(&v[0])), n)); err != nil {
			panic(err)
		}
	}
	return p
}

// room is device memory for n numbers, filled with 0xff.
func room[T number](r *rig, n int) ptxsim.Ptr {
	p, err := r.d.Alloc(int64(max(n, 1)) * int64(unsafe.Sizeof(*new(T))))
	if err != nil {
		panic(err)
	}
	return p
}

func down[T number](r *rig, p ptxsim.Ptr, n int) []T {
	v := make([]T, n)
	if n > 0 {
		if err := r.d.DtoH(unsafe.Slice((*byte)(unsafe.Pointer(&v[0])), n*int(unsafe.Sizeof(*new(T)))), p); err != nil {
			panic(err)
		}
	}
	return v
}

// null is the null pointer.
const null = ptxsim.Ptr(0)

// float types by name.
const (
	f32  = sparse.F32
	f16  = sparse.F16
	bf16 = sparse.BF16
)

// round rounds x to type t.
func round(t sparse.DType, x float64) float64 {
	switch t {
	case f16:
		return float64(sparse.F16ToF32(sparse.F32ToF16(float32(x))))
	case bf16:
		return float64(sparse.BF16ToF32(sparse.F32ToBF16(float32(x))))
	}
	return float64(float32(x))
}

// half is half an ulp of type t, relative, and the absolute error near zero.
func half(t sparse.DType) (rel, abs float64) {
	switch t {
	case f16:
		return 0x1p-11, 0x1p-25
	case bf16:
		return 0x1p-8, 0x1p-130
	}
	return 0x1p-24, 0x1p-130
}

// grid is a matrix of activations on the host: values already rounded to t, row
// stride ld.
type grid struct {
	t              sparse.DType
	rows, cols, ld int
	v              []float64 // rows x cols
}

// values makes a grid of normal numbers times scale.
func (r *rig) values(t sparse.DType, rows, cols, ld int, scale float64) *grid {
	g := &grid{t, rows, cols, ld, make([]float64, rows*cols)}
	for i := range g.v {
		g.v[i] = round(t, r.rng.NormFloat64()*scale)
	}
	return g
}

func (g *grid) at(i, j int) float64 { return g.v[i*g.cols+j] }

// upload copies the grid to the device; what lies between rows is NaN, and the last
// row ends where its columns end.
func (g *grid) upload(r *rig) ptxsim.Ptr {
	n := max((g.rows-1)*g.ld+g.cols, 0)
	if g.t == f32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(math.NaN())
		}
		for i := range g.rows {
			for j := range g.cols {
				v[i*g.ld+j] = float32(g.at(i, j))
			}
		}
		return up(r, v)
	}
	v := make([]uint16, n)
	for i := range v {
		v[i] = 0xffff
	}
	for i := range g.rows {
		for j := range g.cols {
			if g.t == f16 {
				v[i*g.ld+j] = sparse.F32ToF16(float32(g.at(i, j)))
			} else {
				v[i*g.ld+j] = sparse.F32ToBF16(float32(g.at(i, j)))
			}
		}
	}
	return up(r, v)
}

// space is device memory for a grid of that shape, with nothing after its last column.
func space(r *rig, t sparse.DType, rows, cols, ld int) ptxsim.Ptr {
	n := max((rows-1)*ld+cols, 0)
	if t == f32 {
		return room[float32](r, n)
	}
	return room[uint16](r, n)
}

// download reads a grid back and verifies that nothing between its rows was written.
func download(r *rig, p ptxsim.Ptr, t sparse.DType, rows, cols, ld int) (*grid, error) {
	g := &grid{t, rows, cols, ld, make([]float64, rows*cols)}
	n := max((rows-1)*ld+cols, 0)
	var get func(i int) (x float64, written bool)
	if t == f32 {
		v := down[uint32](r, p, n)
		get = func(i int) (float64, bool) {
			return float64(math.Float32frombits(v[i])), v[i] != 0xffffffff
		}
	} else {
		v := down[uint16](r, p, n)
		get = func(i int) (float64, bool) {
			if t == f16 {
				return float64(sparse.F16ToF32(v[i])), v[i] != 0xffff
			}
			return float64(sparse.BF16ToF32(v[i])), v[i] != 0xffff
		}
	}
	for i := range n {
		x, written := get(i)
		if j := i % ld; j < cols {
			if !written {
				return nil, fmt.Errorf("row %d column %d was not written", i/ld, j)
			}
			g.v[i/ld*cols+j] = x
		} else if written {
			return nil, fmt.Errorf("row %d: column %d beyond the width %d was written", i/ld, j, cols)
		}
	}
	return g, nil
}

// near compares got with want, element by element, within tol.
func near(got *grid, want, tol func(i, j int) float64) error {
	for i := range got.rows {
		for j := range got.cols {
			g, w, e := got.at(i, j), want(i, j), tol(i, j)
			if !(math.Abs(g-w) <= e) && g != w {
				return fmt.Errorf("row %d column %d: want %v, got %v, tolerance %.3g", i, j, w, g, e)
			}
		}
	}
	return nil
}

// store is the tolerance that rounding y to t adds.
func store(t sparse.DType, y float64) float64 {
	rel, abs := half(t)
	return rel*math.Abs(y)*1.001 + abs
}

// special is the relative error of a few special-function results in one formula.
const special = 0x1p-20

// runChecks runs a list as subtests on one device.
func runChecks(t *testing.T, checks []check) {
	r := newRig(t)
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			if err := c.run(r); err != nil {
				t.Fatal(err)
			}
		})
	}
	r.d.Reset()
}

// TestMain leaves the bank-conflict degrees for the static gates (cuda/gates).
func TestMain(m *testing.M) {
	code := m.Run()
	if r := loaded.r; r != nil && code == 0 {
		if err := writeDegrees(filepath.Join("..", "build", "conflicts.json"), r.degree); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// writeDegrees adds what this run saw to what the file says.
func writeDegrees(name string, seen map[string]int) error {
	all := map[string]int{}
	if b, err := os.ReadFile(name); err == nil {
		if err := json.Unmarshal(b, &all); err != nil {
			return err
		}
	}
	for k, d := range seen {
		all[k] = d
	}
	b, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}

func TestElementwise(t *testing.T) { runChecks(t, elementwiseChecks()) }
func TestLinear(t *testing.T)      { runChecks(t, linearChecks()) }
