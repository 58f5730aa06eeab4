package train

import "math/rand/v2"

// Augmented gives images of a set shifted by up to Shift pixels each way (zeros come in) and, with
// Mirror, half of them mirrored: the usual augmentation of CIFAR-10 (He et al. 2016). What it
// draws depends on Seed and on how many batches were filled before.
type Augmented struct {
	*Items
	C, H, W int
	Shift   int
	Mirror  bool
	Seed    uint64

	fills uint64
}

// Fill implements Data.
func (a *Augmented) Fill(b *Batch, samples []int) {
	a.Items.Fill(b, samples)
	rng := rand.New(rand.NewPCG(a.Seed, a.fills))
	a.fills++
	row := make([]float32, a.Width)
	for i := range samples {
		img := b.X[i*a.Width : (i+1)*a.Width]
		dy, dx := rng.IntN(2*a.Shift+1)-a.Shift, rng.IntN(2*a.Shift+1)-a.Shift
		mirror := a.Mirror && rng.IntN(2) == 1
		copy(row, img)
		for c := range a.C {
			for y := range a.H {
				for x := range a.W {
					from := x
					if mirror {
						from = a.W - 1 - x
					}
					v := float32(0)
					if sy, sx := y+dy, from+dx; sy >= 0 && sy < a.H && sx >= 0 && sx < a.W {
						v = row[(c*a.H+sy)*a.W+sx]
					}
					img[(c*a.H+y)*a.W+x] = v
				}
			}
		}
	}
}
