package ptxsim

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Pack lays out args as the kernel's parameters: Ptr, the sized integers, int
// (as 32 bits), floats, bool and []byte for structs.
func (k *Kernel) Pack(args ...any) ([]byte, error) {
	params := k.code.fn.params
	if len(args) != len(params) {
		return nil, fmt.Errorf("%s: %d arguments, want %d: %w", k.Name(), len(args), len(params), ErrInvalidValue)
	}
	out := make([]byte, k.ParamBytes())
	for i, a := range args {
		raw, err := argBytes(a)
		if err != nil {
			return nil, fmt.Errorf("%s: argument %d: %w", k.Name(), i, err)
		}
		if len(raw) != params[i].size {
			return nil, fmt.Errorf("%s: argument %d has %d bytes, want %d: %w", k.Name(), i, len(raw), params[i].size, ErrInvalidValue)
		}
		copy(out[params[i].off:], raw)
	}
	return out, nil
}

func argBytes(a any) ([]byte, error) {
	le := binary.LittleEndian
	switch v := a.(type) {
	case Ptr:
		return le.AppendUint64(nil, uint64(v)), nil
	case int:
		if v != int(int32(v)) {
			return nil, fmt.Errorf("int %d does not fit 32 bits: %w", v, ErrInvalidValue)
		}
		return le.AppendUint32(nil, uint32(v)), nil
	case int32:
		return le.AppendUint32(nil, uint32(v)), nil
	case uint32:
		return le.AppendUint32(nil, v), nil
	case int64:
		return le.AppendUint64(nil, uint64(v)), nil
	case uint64:
		return le.AppendUint64(nil, v), nil
	case int16:
		return le.AppendUint16(nil, uint16(v)), nil
	case uint16:
		return le.AppendUint16(nil, v), nil
	case int8:
		return []byte{byte(v)}, nil
	case uint8:
		return []byte{v}, nil
	case bool:
		if v {
			return []byte{1}, nil
		}
		return []byte{0}, nil
	case float32:
		return le.AppendUint32(nil, math.Float32bits(v)), nil
	case float64:
		return le.AppendUint64(nil, math.Float64bits(v)), nil
	case []byte:
		return v, nil
	}
	return nil, fmt.Errorf("argument of type %T: %w", a, ErrInvalidValue)
}
