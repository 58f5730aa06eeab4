package loader

import "fmt"

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
