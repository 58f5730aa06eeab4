package cuda

// Ptr is a device address.
type Ptr uint64

// Info describes a device.
type Info struct {
	Name         string
	Major, Minor int // compute capability
	Memory       int64
	SMs          int
	Driver       int // 12060 for 12.6
	// Simulated: times are no speeds.
	Simulated bool
}

// Image is a module in the forms a driver may want: PTX text for the simulator,
// one cubin per architecture for hardware.
type Image struct {
	PTX    []byte
	Cubins map[string][]byte // "80", "90a", ...
	MinCC  int               // lowest compute capability that runs it: 80, 89, 90
	Extra  bool              // holds kernels that a GPU may lack
}

// Func is a kernel of a loaded module; what it is belongs to the Driver.
type Func any

// Driver is the part of the CUDA driver that this package needs. Calls are made
// from one goroutine at a time; launches and copies are in order on one stream.
// Errors wrap the sentinels of this package.
type Driver interface {
	Info() Info
	Load(Image) error // adds a module; kernels of all modules share one name space
	Func(name string, dynamicShared int) (Func, error)
	Alloc(n int64) (Ptr, error)
	Free(Ptr) error
	HtoD(dst Ptr, src []byte) error // returns when src may be reused
	DtoH(dst []byte, src Ptr) error // waits for the stream
	DtoD(dst, src Ptr, n int64) error
	Memset8(dst Ptr, v byte, n int64) error
	// Launch takes kernel arguments of types Ptr, int32 and float32.
	Launch(f Func, grid, block [3]int, shared int, args ...any) error
	Sync() error
	MemInfo() (free, total int64, err error)
	// Mark records an event now; Elapsed is the time between two marks of a
	// stream that has been synchronised, in nanoseconds. Marks are reused by index.
	Mark(i int) error
	Elapsed(from, to int) (int64, error)
	// Capture records the launches that f makes as a graph and returns what
	// replays it.
	Capture(f func() error) (Replay, error)
	Close() error
}

// Replay is a captured graph.
type Replay interface {
	Launch() error
	Close() error
}
