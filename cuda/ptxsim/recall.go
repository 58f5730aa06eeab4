package ptxsim

import "sync"

// Decoding megabytes of PTX takes a second or so; programs that open several
// devices load the same text into each. Texts without variables decode to the
// same code on every device, and the last few are remembered.
const (
	recallMin = 1 << 20 // shorter texts are not worth it
	recallMax = 4
)

var recalled struct {
	sync.Mutex
	list []*loadedText // newest last
}

type loadedText struct {
	text string
	prog *program
	code []*kernelCode
}

func recall(text string) *loadedText {
	if len(text) < recallMin {
		return nil
	}
	recalled.Lock()
	defer recalled.Unlock()
	for _, c := range recalled.list {
		if c.text == text {
			return c
		}
	}
	return nil
}

// remember keeps the code of m, unless it holds addresses of m's own variables.
func remember(text string, m *Module) {
	if len(text) < recallMin || len(m.vars) > 0 {
		return
	}
	c := &loadedText{text: text, prog: m.prog}
	for _, n := range m.names {
		c.code = append(c.code, m.kernels[n].code)
	}
	recalled.Lock()
	defer recalled.Unlock()
	if recalled.list = append(recalled.list, c); len(recalled.list) > recallMax {
		recalled.list = recalled.list[1:]
	}
}

// module makes a module of remembered code.
func (c *loadedText) module(d *Device) *Module {
	m := &Module{dev: d, prog: c.prog, kernels: map[string]*Kernel{}, vars: map[string]*allocation{}}
	for _, code := range c.code {
		m.add(code)
	}
	return m
}
