package main

import (
	"fmt"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/sparserun/sparserun/train"
)

// progress is a bar on stderr; where stderr is no terminal, or with --quiet, it
// shows nothing.
type progress struct{ bar *progressbar.ProgressBar }

func (g *globals) progress(total int, what string) *progress {
	f, ok := g.stderr.(*os.File)
	if g.Quiet || !ok || !term.IsTerminal(int(f.Fd())) {
		return &progress{}
	}
	return &progress{progressbar.NewOptions(total,
		progressbar.OptionSetWriter(f), progressbar.OptionSetDescription(what),
		progressbar.OptionShowCount(), progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())}
}

func (p *progress) set(done int, what string) {
	if p.bar == nil {
		return
	}
	if what != "" {
		p.bar.Describe(what)
	}
	_ = p.bar.Set(done)
}

// stepLog shows how far training is: a bar on a terminal, else a line every 15 seconds
// and at every evaluation.
type stepLog struct {
	*progress
	g    *globals
	last time.Time
}

func (g *globals) steps(total int, what string) *stepLog {
	return &stepLog{g.progress(total, what), g, time.Now()}
}

// at says that done steps of the bar are done; status stands in the bar, line in the log.
func (l *stepLog) at(done int, status, line string, e *train.Evaluation) {
	l.set(done, status)
	if l.bar != nil || e == nil && time.Since(l.last) <= 15*time.Second {
		return
	}
	l.last = time.Now()
	if e != nil {
		line += fmt.Sprintf("; held back: %.4f", e.Value)
	}
	l.g.logf("%s", line)
}

func (p *progress) done() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
