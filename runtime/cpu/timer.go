package cpu

// timer keeps what measurements reuse.
type timer struct{}

func (t *timer) clear() {}
