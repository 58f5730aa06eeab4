package train

import "math"

// Schedule gives the factor on the learning rate of step 0..total-1.
type Schedule func(step, total int) float64

// Constant keeps the rate.
func Constant() Schedule { return func(int, int) float64 { return 1 } }

// Cosine falls from 1 to floor along half a cosine (Loshchilov & Hutter 2017).
func Cosine(floor float64) Schedule {
	return func(step, total int) float64 {
		return floor + (1-floor)*(1+math.Cos(math.Pi*float64(step)/float64(max(total, 1))))/2
	}
}

// Linear falls from 1 to floor in a line.
func Linear(floor float64) Schedule {
	return func(step, total int) float64 { return 1 - (1-floor)*float64(step)/float64(max(total, 1)) }
}

// Steps multiplies the rate by factor at each of the given shares (0..1) of the run.
func Steps(factor float64, at ...float64) Schedule {
	return func(step, total int) float64 {
		f := 1.0
		for _, a := range at {
			if float64(step) >= a*float64(total) {
				f *= factor
			}
		}
		return f
	}
}

// Warmup rises in a line over the first n steps; s then sees the remaining ones.
func Warmup(n int, s Schedule) Schedule {
	return func(step, total int) float64 {
		if step < n {
			return float64(step+1) / float64(n) * s(0, total-n)
		}
		return s(step-n, total-n)
	}
}
