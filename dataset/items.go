package dataset

import "github.com/sparserun/sparserun/train"

// Items are the images as training wants them: pixels prepared, a row each.
func (d *Images) Items(p Prepare) (*train.Items, error) {
	if err := p.check(d.C); err != nil {
		return nil, err
	}
	size := d.Size()
	out := &train.Items{Width: size, X: make([]float32, d.Len()*size), Y: make([]int32, d.Len())}
	for i, l := range d.Labels {
		row := out.X[i*size : (i+1)*size]
		if err := d.Read(i, row); err != nil {
			return nil, err
		}
		p.apply(row, d.C)
		out.Y[i] = int32(l)
	}
	return out, nil
}
