package ptxsim

// dtype is a PTX fundamental or packed type.
type dtype uint8

const (
	tNone dtype = iota
	tPred
	tB8
	tB16
	tB32
	tB64
	tU8
	tU16
	tU32
	tU64
	tS8
	tS16
	tS32
	tS64
	tF16
	tF16x2
	tBF16
	tBF16x2
	tTF32
	tF32
	tF64
	tE4M3
	tE5M2
	tE4M3x2
	tE5M2x2
	tB128
)

// dtypeInfo gives a type's name in PTX and its size in bytes (1 bit counts as 0).
var dtypeInfo = [...]struct {
	name string
	size int
}{
	tNone: {"", 0}, tPred: {"pred", 0},
	tB8: {"b8", 1}, tB16: {"b16", 2}, tB32: {"b32", 4}, tB64: {"b64", 8},
	tU8: {"u8", 1}, tU16: {"u16", 2}, tU32: {"u32", 4}, tU64: {"u64", 8},
	tS8: {"s8", 1}, tS16: {"s16", 2}, tS32: {"s32", 4}, tS64: {"s64", 8},
	tF16: {"f16", 2}, tF16x2: {"f16x2", 4}, tBF16: {"bf16", 2}, tBF16x2: {"bf16x2", 4},
	tTF32: {"tf32", 4}, tF32: {"f32", 4}, tF64: {"f64", 8},
	tE4M3: {"e4m3", 1}, tE5M2: {"e5m2", 1}, tE4M3x2: {"e4m3x2", 2}, tE5M2x2: {"e5m2x2", 2},
	tB128: {"b128", 16},
}

var dtypeByName = func() map[string]dtype {
	m := make(map[string]dtype)
	for i, d := range dtypeInfo {
		if d.name != "" {
			m[d.name] = dtype(i)
		}
	}
	return m
}()

func (t dtype) String() string { return dtypeInfo[t].name }
func (t dtype) size() int      { return dtypeInfo[t].size }
func (t dtype) signed() bool   { return t >= tS8 && t <= tS64 }
func (t dtype) float() bool    { return t >= tF16 && t <= tF64 }
func (t dtype) wide() bool     { return t.size() == 8 }
func (t dtype) integer() bool  { return t >= tB8 && t <= tS64 }

// sext returns x, a value of type t in the low bits, extended to 64 bits as t says.
func (t dtype) sext(x uint64) uint64 {
	switch t {
	case tS8:
		return uint64(int64(int8(x)))
	case tS16:
		return uint64(int64(int16(x)))
	case tS32:
		return uint64(int64(int32(x)))
	}
	switch t.size() {
	case 1:
		return x & 0xff
	case 2:
		return x & 0xffff
	case 4:
		return x & 0xffffffff
	}
	return x
}
