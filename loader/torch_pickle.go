package loader

import (
	"fmt"
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

// build runs the opcodes that make values of values.
func (p *pickle) build(op byte) error {
	switch op {
	case ']':
		return p.push(&pyList{})
	case '}':
		return p.push(&pyDict{vals: map[string]any{}})
	case ')':
		return p.push(pyTuple{})
	case 't':
		items, err := p.popMark()
		if err != nil {
			return err
		}
		return p.push(pyTuple(items))
	case 0x85, 0x86, 0x87: // TUPLE1..3
		t := make(pyTuple, op-0x84)
		for i := len(t) - 1; i >= 0; i-- {
			v, err := p.pop()
			if err != nil {
				return err
			}
			t[i] = v
		}
		return p.push(t)
	case 0x93: // STACK_GLOBAL
		name, err := p.pop()
		if err != nil {
			return err
		}
		mod, err := p.pop()
		if err != nil {
			return err
		}
		m, ok1 := mod.(string)
		n, ok2 := name.(string)
		if !ok1 || !ok2 {
			return p.fail(ErrFormat, "name of a global", nil)
		}
		return p.global(m, n)
	case 'a', 'e':
		return p.extend(op == 'e')
	case 's', 'u':
		return p.setItems(op == 'u')
	case 'Q':
		v, err := p.pop()
		if err != nil {
			return err
		}
		return p.persistent(v)
	case 'R':
		return p.reduce()
	case 'b': // BUILD: state of an OrderedDict, which is only a remark
		if _, err := p.pop(); err != nil {
			return err
		}
		if len(p.stack) > 0 {
			if _, ok := p.stack[len(p.stack)-1].(*pyDict); ok {
				return nil
			}
		}
		return p.fail(ErrUnsupported, "state of something that is no dict", nil)
	}
	return p.fail(ErrUnsupported, "opcode", fmt.Sprintf("%#02x", op))
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

// global pushes a name that is allowed to stand for something.
func (p *pickle) global(mod, name string) error {
	g := mod + " " + name
	switch g {
	case globalTensor, globalParam, globalDict, globalSize:
		return p.push(pyGlobal(g))
	}
	if _, ok := torchStorages[name]; ok && (mod == "torch" || mod == "torch.storage") {
		return p.push(pyGlobal(name))
	}
	return p.fail(ErrUnsupported, "global that could run code", fmt.Sprintf("%.100s.%.100s", mod, name))
}

func (p *pickle) extend(many bool) error {
	var items []any
	var err error
	if many {
		items, err = p.popMark()
	} else {
		var v any
		v, err = p.pop()
		items = []any{v}
	}
	if err != nil {
		return err
	}
	if len(p.stack) > 0 {
		if l, ok := p.stack[len(p.stack)-1].(*pyList); ok {
			l.items = append(l.items, items...)
			return nil
		}
	}
	return p.fail(ErrFormat, "append to something that is no list", nil)
}

func (p *pickle) setItems(many bool) error {
	var items []any
	var err error
	if many {
		items, err = p.popMark()
	} else {
		var k, v any
		if v, err = p.pop(); err == nil {
			k, err = p.pop()
		}
		items = []any{k, v}
	}
	if err != nil {
		return err
	}
	if len(items)%2 != 0 || len(p.stack) == 0 {
		return p.fail(ErrFormat, "keys without values", len(items))
	}
	d, ok := p.stack[len(p.stack)-1].(*pyDict)
	if !ok {
		return p.fail(ErrFormat, "item of something that is no dict", nil)
	}
	for i := 0; i < len(items); i += 2 {
		k, ok := items[i].(string)
		if !ok {
			continue // optimisers number their states
		}
		if _, dup := d.vals[k]; dup {
			return p.fail(ErrFormat, "key occurs twice", k)
		}
		d.keys = append(d.keys, k)
		d.vals[k] = items[i+1]
	}
	return nil
}

// persistent reads ("storage", type, key, device, numel).
func (p *pickle) persistent(v any) error {
	t, ok := v.(pyTuple)
	if !ok || len(t) < 5 || t[0] != "storage" {
		return p.fail(ErrFormat, "persistent id", nil)
	}
	typ, ok1 := t[1].(pyGlobal)
	key, ok2 := t[2].(string)
	n, ok3 := t[4].(int64)
	dt, ok4 := torchStorages[string(typ)]
	if !ok1 || !ok2 || !ok3 || !ok4 || n < 0 {
		return p.fail(ErrFormat, "storage", nil)
	}
	return p.push(pyStorage{dt, key, n})
}

// reduce is a call: of the three functions that are allowed.
func (p *pickle) reduce() error {
	a, err := p.pop()
	if err != nil {
		return err
	}
	f, err := p.pop()
	if err != nil {
		return err
	}
	args, ok := a.(pyTuple)
	g, ok2 := f.(pyGlobal)
	if !ok || !ok2 {
		return p.fail(ErrUnsupported, "call", nil)
	}
	switch string(g) {
	case globalDict:
		if len(args) == 0 {
			return p.push(&pyDict{vals: map[string]any{}})
		}
	case globalSize:
		if len(args) == 1 {
			return p.push(args[0])
		}
	case globalParam:
		if len(args) >= 1 {
			return p.push(args[0])
		}
	case globalTensor:
		return p.tensor(args)
	}
	return p.fail(ErrUnsupported, "call", string(g))
}

// tensor is _rebuild_tensor_v2(storage, offset, size, stride, ...).
func (p *pickle) tensor(args pyTuple) error {
	if len(args) < 4 {
		return p.fail(ErrFormat, "tensor of too few arguments", len(args))
	}
	s, ok := args[0].(pyStorage)
	off, ok2 := args[1].(int64)
	shape, ok3 := wholes(args[2])
	stride, ok4 := wholes(args[3])
	if !ok || !ok2 || !ok3 || !ok4 || len(shape) != len(stride) || off < 0 {
		return p.fail(ErrFormat, "tensor", nil)
	}
	return p.push(&pyTensor{s, off, shape, stride})
}

// wholes is a tuple of at most maxDimensions non-negative numbers.
func wholes(v any) ([]int64, bool) {
	t, ok := v.(pyTuple)
	if !ok || len(t) > maxDimensions {
		return nil, false
	}
	out := make([]int64, len(t))
	for i, x := range t {
		n, ok := x.(int64)
		if !ok || n < 0 {
			return nil, false
		}
		out[i] = n
	}
	return out, true
}
