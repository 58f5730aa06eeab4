package loader

import (
	"math"

	"github.com/sparserun/sparserun/sparse"
)

// The pickle of a PyTorch state dict, read without executing anything: a value is
// a number, a string, a tuple, a list, a dict, one of the few globals below, or
// a tensor that _rebuild_tensor_v2 would have made. Every other opcode and global
// is refused.

type (
	pyGlobal string // "module name"
	pyTuple  []any
	pyList   struct{ items []any }
	pyDict   struct {
		keys []string // of the entries whose key is a string, in order
		vals map[string]any
	}
	pyMark    struct{}
	pyStorage struct {
		t     sparse.DType
		key   string
		numel int64
	}
	pyTensor struct {
		pyStorage
		off           int64
		shape, stride []int64
	}
)

var torchStorages = map[string]sparse.DType{
	"FloatStorage": sparse.F32, "HalfStorage": sparse.F16, "BFloat16Storage": sparse.BF16, "DoubleStorage": sparse.F64,
	"CharStorage": sparse.Int8, "ByteStorage": sparse.Uint8, "ShortStorage": sparse.Int16, "IntStorage": sparse.Int32,
	"LongStorage": sparse.Int64, "BoolStorage": sparse.Bool,
}

const (
	globalTensor = "torch._utils _rebuild_tensor_v2"
	globalParam  = "torch._utils _rebuild_parameter"
	globalDict   = "collections OrderedDict"
	globalSize   = "torch Size"
)

const (
	maxPickle  = 32 << 20
	maxObjects = 1 << 19 // a tensor takes about 25
)

// pickle is the machine: a stack, marks in it, a memo.
type pickle struct {
	b     []byte
	i     int
	stack []any
	memo  map[int]any
	made  int
}

func (p *pickle) fail(sentinel error, what string, got any) error {
	return fault(sentinel, "data.pkl", int64(p.i), "pickle: "+what, nil, got)
}

func (p *pickle) take(n int) ([]byte, error) {
	if n < 0 || n > len(p.b)-p.i {
		return nil, p.fail(ErrTruncated, "want more bytes", n)
	}
	p.i += n
	return p.b[p.i-n : p.i], nil
}

func (p *pickle) line() (string, error) {
	for j := p.i; j < len(p.b) && j < p.i+256; j++ {
		if p.b[j] == '\n' {
			s := string(p.b[p.i:j])
			p.i = j + 1
			return s, nil
		}
	}
	return "", p.fail(ErrFormat, "name without an end", nil)
}

func (p *pickle) push(v any) error {
	if p.made++; p.made > maxObjects {
		return p.fail(ErrLimit, "objects", p.made)
	}
	p.stack = append(p.stack, v)
	return nil
}

func (p *pickle) pop() (any, error) {
	if len(p.stack) == 0 {
		return nil, p.fail(ErrFormat, "stack is empty", nil)
	}
	v := p.stack[len(p.stack)-1]
	p.stack = p.stack[:len(p.stack)-1]
	if _, ok := v.(pyMark); ok {
		return nil, p.fail(ErrFormat, "mark for a value", nil)
	}
	return v, nil
}

// popMark takes everything above the last mark.
func (p *pickle) popMark() ([]any, error) {
	for i := len(p.stack) - 1; i >= 0; i-- {
		if _, ok := p.stack[i].(pyMark); ok {
			items := append([]any(nil), p.stack[i+1:]...)
			p.stack = p.stack[:i]
			return items, nil
		}
	}
	return nil, p.fail(ErrFormat, "no mark", nil)
}

// run executes the opcodes up to STOP.
func (p *pickle) run() (any, error) {
	for {
		op, err := p.take(1)
		if err != nil {
			return nil, err
		}
		if op[0] == '.' {
			return p.pop()
		}
		if err := p.step(op[0]); err != nil {
			return nil, err
		}
	}
}

// lengths of an opcode's little-endian argument.
var pickleArg = map[byte]int{0x80: 1, 0x95: 8, 'J': 4, 'K': 1, 'M': 2, 'G': 8, 'q': 1, 'h': 1, 'r': 4, 'j': 4, 'X': 4, 0x8c: 1, 0x8d: 8, 0x8a: 1, 'U': 1, 'T': 4}

func (p *pickle) step(op byte) error {
	arg, err := p.take(pickleArg[op])
	if err != nil {
		return err
	}
	u := uint64(0)
	for i, b := range arg {
		u |= uint64(b) << (8 * i)
	}
	switch op {
	case 0x80: // PROTO
		if u < 2 || u > 5 {
			return p.fail(ErrUnsupported, "protocol", u)
		}
		return nil
	case 0x95: // FRAME
		return nil
	case '(':
		return p.push(pyMark{})
	case 'N':
		return p.push(nil)
	case 0x88, 0x89:
		return p.push(op == 0x88)
	case 'J':
		return p.push(int64(int32(u)))
	case 'K', 'M':
		return p.push(int64(u))
	case 'G':
		f := uint64(0) // big-endian, alone of all
		for _, b := range arg {
			f = f<<8 | uint64(b)
		}
		return p.push(math.Float64frombits(f))
	case 0x8a: // LONG1
		return p.long(int(u))
	case 'X', 0x8c, 0x8d, 'U', 'T':
		if u > maxPickle {
			return p.fail(ErrTruncated, "string length", u)
		}
		s, err := p.take(int(u))
		if err != nil {
			return err
		}
		return p.push(string(s))
	case 'q', 'r':
		return p.remember(int(u))
	case 0x94: // MEMOIZE
		return p.remember(len(p.memo))
	case 'h', 'j':
		v, ok := p.memo[int(u)]
		if !ok {
			return p.fail(ErrFormat, "memo", u)
		}
		return p.push(v)
	case 'c':
		mod, err := p.line()
		if err != nil {
			return err
		}
		name, err := p.line()
		if err != nil {
			return err
		}
		return p.global(mod, name)
	}
	return p.build(op)
}

func (p *pickle) long(n int) error {
	b, err := p.take(n)
	if err != nil {
		return err
	}
	if n > 8 {
		return p.push(nil) // too large to be a size or an offset: an unused magic number
	}
	u := int64(0)
	for i, x := range b {
		u |= int64(x) << (8 * i)
	}
	if n > 0 && n < 8 && b[n-1] > 127 {
		u -= 1 << (8 * n)
	}
	return p.push(u)
}

func (p *pickle) remember(i int) error {
	if len(p.stack) == 0 {
		return p.fail(ErrFormat, "nothing to remember", nil)
	}
	if _, ok := p.memo[i]; !ok && len(p.memo) >= maxObjects {
		return p.fail(ErrLimit, "memo", i)
	}
	p.memo[i] = p.stack[len(p.stack)-1]
	return nil
}
