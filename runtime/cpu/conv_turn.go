package cpu

import (
	"fmt"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
)

// turned is an image in the other form: [N, C, H, W], with the given channels, or in
// blocks, [N, C/16, H, W, 16].
func (p *tensorProgram) turned(t *model.Tensor, channels int, blocks bool) (*model.Tensor, error) {
	f, ok := t.Data.([]float32)
	if !ok || blocks && len(t.Shape) != 4 {
		return nil, fmt.Errorf("%v %v as an image: %w", t.Elem, t.Shape, runtime.ErrShape)
	}
	if blocks {
		channels = t.Shape[1]
	}
	n, h, w, cb := t.Shape[0], t.Shape[2], t.Shape[3], channelBlocks(channels)
	shape := []int{n, channels, h, w}
	if blocks {
		shape = []int{n, cb, h, w, blockLanes}
	}
	y, err := p.bufs.tensor(shape...)
	if err != nil {
		return nil, err
	}
	if p.turning == nil {
		p.turning = make([]turnBuffer, p.pool.threads)
	}
	j := &turnBlocks{plain: f, blocks: y.Data.([]float32), channels: channels, positions: h * w, in: blocks, bufs: p.turning}
	if !blocks {
		j.plain, j.blocks = j.blocks, j.plain
	}
	if y.Len() > 0 {
		p.pool.run(j, n*cb)
	}
	return y, nil
}

// turnBlocks turns a block of an image a part.
type turnBlocks struct {
	plain, blocks       []float32
	channels, positions int
	in                  bool // into blocks
	bufs                []turnBuffer
}

// turnBuffer is a worker's; rows are those of a block that is not full.
type turnBuffer struct {
	args blockArgs
	rows []float32
}

func (j *turnBlocks) part(worker, i int) {
	cb := channelBlocks(j.channels)
	c := i % cb * blockLanes
	n := min(blockLanes, j.channels-c)
	plain := j.plain[(i/cb*j.channels+c)*j.positions:][:n*j.positions]
	block := j.blocks[i*j.positions*blockLanes:][:j.positions*blockLanes]
	squares := j.positions / blockLanes
	done := squares * blockLanes
	if squares > 0 {
		b := &j.bufs[worker]
		rows, ld := plain, j.positions
		if n < blockLanes {
			ld = done
			if len(b.rows) < blockLanes*ld {
				b.rows = make([]float32, blockLanes*ld)
			}
			rows = b.rows
			for k := range n {
				if j.in {
					copy(rows[k*ld:(k+1)*ld], plain[k*j.positions:])
				}
			}
		}
		blocks().transpose(&b.args, rows, ld, block, squares, j.in)
		if n < blockLanes && !j.in {
			for k := range n {
				copy(plain[k*j.positions:], rows[k*ld:(k+1)*ld])
			}
		}
	}
	for p := done; p < j.positions; p++ {
		pixel := block[p*blockLanes:][:blockLanes]
		for k := range n {
			if j.in {
				pixel[k] = plain[k*j.positions+p]
			} else {
				plain[k*j.positions+p] = pixel[k]
			}
		}
	}
}
