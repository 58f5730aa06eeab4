package cpu

// panelBytes is the memory of a panel form of rows x cols activations.
func panelBytes(f form, rows, cols int) int { return 0 }

// beginPanels sets x up for preparePanels of x.rows rows.
func (x *acts) beginPanels(f form) {}

// panelStep is the width of a panel.
func (x *acts) panelStep(f form) int { return 1 }

// preparePanels fills the panels of rows t0..t1-1.
func (x *acts) preparePanels(f form, t0, t1 int) {}
