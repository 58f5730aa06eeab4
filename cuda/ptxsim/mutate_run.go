package ptxsim

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
)

// MutationReport is what became of the mutants.
type MutationReport struct {
	Killed   []Mutant
	Survived []Mutant
	Invalid  []Mutant // did not load: says nothing about the test
	Excused  []Excuse // survivors that change nothing a test could see
}

// Excuse is a surviving mutant and why it is no gap in the test.
type Excuse struct {
	Mutant
	Reason string
}

// Excuse moves the survivors that match to Excused: they no longer count.
func (r *MutationReport) Excuse(reason string, match func(Mutant) bool) {
	keep := r.Survived[:0]
	for _, m := range r.Survived {
		if match(m) {
			r.Excused = append(r.Excused, Excuse{m, reason})
		} else {
			keep = append(keep, m)
		}
	}
	r.Survived = keep
}

// Rate is the share of valid mutants that the test noticed; 1 if there was none.
func (r *MutationReport) Rate() float64 {
	n := len(r.Killed) + len(r.Survived)
	if n == 0 {
		return 1
	}
	return float64(len(r.Killed)) / float64(n)
}

// Add joins another report.
func (r *MutationReport) Add(o MutationReport) {
	r.Killed = append(r.Killed, o.Killed...)
	r.Survived = append(r.Survived, o.Survived...)
	r.Invalid = append(r.Invalid, o.Invalid...)
	r.Excused = append(r.Excused, o.Excused...)
}

// Print writes the rate, the kills by kind and every survivor.
func (r *MutationReport) Print(w io.Writer) {
	fmt.Fprintf(w, "mutants: %d killed, %d survived, %d excused, %d invalid: kill rate %.1f %%\n",
		len(r.Killed), len(r.Survived), len(r.Excused), len(r.Invalid), 100*r.Rate())
	for _, kind := range MutationKinds {
		k, s := countKind(r.Killed, kind), countKind(r.Survived, kind)
		if k+s > 0 {
			fmt.Fprintf(w, "  %-9s %d of %d\n", kind, k, k+s)
		}
	}
	for _, m := range r.Survived {
		fmt.Fprintf(w, "  survived: %s\n", m)
	}
	for _, x := range r.Excused {
		fmt.Fprintf(w, "  excused (%s): %s\n", x.Reason, x.Mutant)
	}
}

func countKind(list []Mutant, kind string) (n int) {
	for _, m := range list {
		if m.Kind == kind {
			n++
		}
	}
	return n
}

// RunMutants runs test on every mutant of kernel in src, perKind of each kind.
// The text that test gets holds kernel and those in keep, which it also needs.
// test loads the text on a device of its own, runs the kernel and compares; it
// returns an error if anything is wrong. It must accept src itself, and must be
// safe to call from several goroutines. Give its device a small
// Config.MaxInstructions: a mutant may loop for ever.
func RunMutants(src, kernel string, perKind int, test func(ptx string) error, keep ...string) (MutationReport, error) {
	var rep MutationReport
	small, err := Extract(src, append([]string{kernel}, keep...)...)
	if err != nil {
		return rep, err
	}
	if err := test(small); err != nil {
		return rep, fmt.Errorf("%s: the test fails on the kernel as it is: %w", kernel, err)
	}
	muts, err := Mutants(small, kernel, perKind)
	if err != nil {
		return rep, err
	}
	verdict := make([]error, len(muts))
	var wg sync.WaitGroup
	sem := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, m := range muts {
		wg.Add(1)
		sem <- struct{}{}
		go func() {
			defer func() { <-sem; wg.Done() }()
			verdict[i] = test(m.Apply(small))
		}()
	}
	wg.Wait()
	for i, m := range muts {
		switch err := verdict[i]; {
		case err == nil:
			rep.Survived = append(rep.Survived, m)
		case errors.Is(err, ErrSyntax), errors.Is(err, ErrUnsupported):
			rep.Invalid = append(rep.Invalid, m)
		default:
			rep.Killed = append(rep.Killed, m)
		}
	}
	return rep, nil
}
