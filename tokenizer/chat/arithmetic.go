package chat

import (
	"fmt"
	"math"
	"math/bits"
	"strings"
)

// arithmetic is l op r with Python's rules, but integers of 64 bits: beyond
// them it is an error.
func (ev *evaluator) arithmetic(op string, l, r any) (any, error) {
	a, ok1 := integer(l)
	b, ok2 := integer(r)
	if ok1 && ok2 {
		return integers(op, a, b)
	}
	x, ok3 := number(l)
	y, ok4 := number(r)
	if ok3 && ok4 {
		return floats(op, x, y)
	}
	switch s := l.(type) {
	case string:
		if t, ok := r.(string); ok && op == "+" {
			return ev.join(s, t)
		}
		if ok2 && op == "*" {
			b = max(b, 0)
			if err := ev.times(len(s), b); err != nil {
				return nil, err
			}
			return strings.Repeat(s, int(b)), nil
		}
	case list:
		if t, ok := r.(list); ok && op == "+" {
			if err := ev.charge(entryBytes * (len(s) + len(t))); err != nil {
				return nil, err
			}
			return append(append(make(list, 0, len(s)+len(t)), s...), t...), nil
		}
	}
	if u, ok := l.(undefined); ok {
		return nil, fmt.Errorf("%.80q is not defined: %w", u.name, ErrRender)
	}
	if u, ok := r.(undefined); ok {
		return nil, fmt.Errorf("%.80q is not defined: %w", u.name, ErrRender)
	}
	return nil, fmt.Errorf("%s %s %s: %w", typeName(l), op, typeName(r), ErrRender)
}

// times charges n bytes b times, without overflow.
func (ev *evaluator) times(n int, b int64) error {
	hi, lo := bits.Mul64(uint64(n), uint64(b))
	if hi != 0 || lo > math.MaxInt32 || b > math.MaxInt32 {
		return fmt.Errorf("too many bytes: %w", ErrLimit)
	}
	return ev.charge(int(lo))
}

func integers(op string, a, b int64) (any, error) {
	switch op {
	case "+":
		if c := a + b; (c > a) == (b > 0) {
			return c, nil
		}
	case "-":
		if c := a - b; (c < a) == (b > 0) {
			return c, nil
		}
	case "*":
		hi, lo := bits.Mul64(magnitude(a), magnitude(b))
		if hi == 0 && lo <= math.MaxInt64 {
			return a * b, nil
		}
	case "/":
		return floats(op, float64(a), float64(b))
	case "**":
		return power(a, b)
	default:
		if b == 0 || b == -1 && a == math.MinInt64 {
			break
		}
		q, m := a/b, a%b
		if m != 0 && (m < 0) != (b < 0) { // towards minus infinity
			q, m = q-1, m+b
		}
		if op == "//" {
			return q, nil
		}
		return m, nil
	}
	return nil, fmt.Errorf("%d %s %d is out of range: %w", a, op, b, ErrRender)
}

func magnitude(a int64) uint64 {
	if a < 0 {
		return -uint64(a)
	}
	return uint64(a)
}

func power(a, b int64) (any, error) {
	switch {
	case b < 0:
		return floats("**", float64(a), float64(b))
	case b > 63 && magnitude(a) > 1:
		return nil, fmt.Errorf("%d ** %d is out of range: %w", a, b, ErrRender)
	case b > 63:
		b = 62 + b%2 // of -1, 0 and 1 only the parity counts
	}
	c := any(int64(1))
	for range b {
		var err error
		if c, err = integers("*", c.(int64), a); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func floats(op string, x, y float64) (any, error) {
	if y == 0 && (op == "/" || op == "//" || op == "%") {
		return nil, fmt.Errorf("division by zero: %w", ErrRender)
	}
	switch op {
	case "+":
		return x + y, nil
	case "-":
		return x - y, nil
	case "*":
		return x * y, nil
	case "/":
		return x / y, nil
	case "//":
		return math.Floor(x / y), nil
	case "**":
		return math.Pow(x, y), nil
	}
	m := math.Mod(x, y)
	if m != 0 && (m < 0) != (y < 0) {
		m += y
	}
	return m, nil
}
