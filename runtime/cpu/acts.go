package cpu

// formBytes is the memory of a form of rows x cols activations.
func formBytes(f form, rows, cols int) int {
	switch f {
	case formInt8:
		qld := padded(cols)
		return rows * (qld + 4*qld/actGroup)
	case formPanels, formInt8Panels, formTokens:
		return panelBytes(f, rows, cols)
	}
	return 0
}

// padded rounds columns up to whole int8 groups.
func padded(cols int) int { return (cols + actGroup - 1) &^ (actGroup - 1) }

// begin sets the slices of form f for x.rows rows; prepare fills them.
func (x *acts) begin(f form) {
	switch f {
	case formInt8:
		x.qld = padded(x.cols)
		n := x.rows * x.qld
		x.scale = f32s(x.mem[f][:4*n/actGroup])
		x.q = i8s(x.mem[f][4*n/actGroup : 4*n/actGroup+n])
	case formPanels, formInt8Panels, formTokens:
		x.beginPanels(f)
	}
}

// step is the unit of rows that prepare may be split in.
func (x *acts) step(f form) int {
	switch f {
	case formPanels, formInt8Panels, formTokens:
		return x.panelStep(f)
	}
	return 1
}

// prepare makes form f of rows t0..t1-1: t0 is a multiple of step, t1 too or the
// last row. It may run concurrently for disjoint rows.
func (x *acts) prepare(f form, t0, t1 int) {
	switch f {
	case formInt8:
		ng := x.qld / actGroup
		for t := t0; t < t1; t++ {
			quantiseRow(x.q[t*x.qld:(t+1)*x.qld], x.scale[t*ng:(t+1)*ng], x.f32[t*x.cols:(t+1)*x.cols])
		}
	case formPanels, formInt8Panels, formTokens:
		x.preparePanels(f, t0, t1)
	}
}
