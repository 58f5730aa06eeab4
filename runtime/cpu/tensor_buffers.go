package cpu

import "github.com/sparserun/sparserun/model"

// buffers lends memory for float32 results and takes it back when the last value
// that lies in it is read for the last time: fresh memory costs a network of
// large images more than its arithmetic. Values share memory (Reshape, Identity),
// so values are counted by the first number they lie at. What leaves the program
// as an output, or into a sequence, is not taken back.
type buffers struct {
	free map[int][][]float32 // by length
	live map[*float32]int    // values that lie in what was lent
}

// keep is how many buffers of a length wait at most.
const keep = 8

func (b *buffers) begin() {
	if b.free == nil {
		b.free = map[int][][]float32{}
	}
	b.live = map[*float32]int{}
}

// tensor is a float32 tensor of any content.
func (b *buffers) tensor(shape ...int) (*model.Tensor, error) {
	n, err := model.Elements(model.ElemF32, shape)
	if err != nil {
		return nil, err
	}
	var f []float32
	if l := b.free[n]; len(l) > 0 {
		f, b.free[n] = l[len(l)-1], l[:len(l)-1]
	} else {
		f = make([]float32, n)
	}
	if n > 0 && b.live != nil {
		b.live[&f[0]] = 0
	}
	return model.F32Tensor(f, append([]int(nil), shape...)...), nil
}

// at is what a value is counted by, nil where it is none of ours.
func (b *buffers) at(t *model.Tensor) *float32 {
	if t == nil || t.Seq {
		return nil
	}
	f, ok := t.Data.([]float32)
	if !ok || len(f) == 0 {
		return nil
	}
	if _, ok := b.live[&f[0]]; !ok {
		return nil
	}
	return &f[0]
}

func (b *buffers) hold(t *model.Tensor) {
	if t != nil && t.Seq {
		for _, x := range t.Items {
			b.leave(x)
		}
		return
	}
	if p := b.at(t); p != nil {
		b.live[p]++
	}
}

// leave gives a value's memory away for good.
func (b *buffers) leave(t *model.Tensor) {
	if p := b.at(t); p != nil {
		delete(b.live, p)
	}
}

func (b *buffers) release(t *model.Tensor) {
	p := b.at(t)
	if p == nil {
		return
	}
	if b.live[p]--; b.live[p] > 0 {
		return
	}
	delete(b.live, p)
	f := t.Data.([]float32)
	if len(b.free[len(f)]) < keep {
		b.free[len(f)] = append(b.free[len(f)], f)
	}
}
