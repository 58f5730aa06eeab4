package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	goruntime "runtime"
	"sync"
	"time"

	"github.com/sparserun/sparserun/experiment"
	"github.com/sparserun/sparserun/linalg"
)

// reproduceCmd repeats published tables of pruning on MNIST.
type reproduceCmd struct {
	What   []string `arg:"" optional:"" help:"han, levels and lottery (default: all three)."`
	Mnist  string   `required:"" help:"Folder with MNIST's four files." placeholder:"DIR"`
	Out    string   `required:"" help:"Folder for tables (.md, .csv, .json, .png) and for the journal that an interrupted run goes on from." placeholder:"DIR"`
	Quick  bool     `help:"A short version, on few images, seeds and steps: about a minute."`
	Tables bool     `help:"Run nothing: tables of the runs that are in the journal."`
	Jobs   int      `default:"0" help:"Runs side by side, one thread each (default: a core each)."`
}

// Help is shown by --help below the flags' head.
func (*reproduceCmd) Help() string {
	return `han      Han et al. 2015: LeNet-300-100 and LeNet-5 with 12 times fewer parameters, and beyond
levels   accuracy against sparsity: magnitude, gradient, sensitivity, random; one-shot beside gradual
lottery  Frankle & Carbin 2019: winning tickets against random re-initialisation and random masks

Results depend on the seeds, 1, 2, ..., never on --jobs. Finished runs are kept in the journal; the
tables show means and deviations over seeds, and claims that fail stay in. Exit code 1 if a claim
on compression or accuracy fails.

Examples:
  sparserun reproduce --mnist mnist/ --out bench/out/reproduce
  sparserun reproduce lottery --mnist mnist/ --out bench/out/reproduce --jobs 2
  sparserun reproduce --quick --mnist mnist/ --out /tmp/quick`
}

// plans are what the verb runs, in full or in short.
type plans struct {
	han     []experiment.Compact
	levels  experiment.Levels
	lottery experiment.Lottery
}

type reproduceJSON struct {
	Han     []experiment.HanRow     `json:"han,omitempty"`
	Levels  []experiment.LevelRow   `json:"levels,omitempty"`
	Lottery []experiment.LotteryRow `json:"lottery,omitempty"`
	Claims  []experiment.Claim      `json:"claims"`
	Seconds float64                 `json:"seconds"`
}

func (c *reproduceCmd) Run(g *globals) error {
	if len(c.What) == 0 {
		c.What = []string{"han", "levels", "lottery"}
	}
	for _, w := range c.What {
		if w != "han" && w != "levels" && w != "lottery" {
			return usagef("want han, levels or lottery, got %q", w)
		}
	}
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return err
	}
	j, err := experiment.OpenJournal(filepath.Join(c.Out, "journal.jsonl"))
	if err != nil {
		return err
	}
	jobs := c.Jobs
	if jobs == 0 {
		jobs = goruntime.GOMAXPROCS(0)
	}
	lab, err := experiment.OpenLab(c.Mnist, j, jobs)
	if err != nil {
		return err
	}
	lab.Offline = c.Tables
	start := time.Now()
	c.watch(g, lab)
	p := plans{experiment.Compacts(), experiment.FullLevels(), experiment.FullLottery()}
	if c.Quick {
		p = plans{experiment.QuickCompacts(), experiment.QuickLevels(), experiment.QuickLottery()}
	}
	var out reproduceJSON
	var tables []experiment.Table
	for _, w := range c.What {
		t, err := c.one(g, lab, w, p, &out)
		if err != nil {
			return fmt.Errorf("%s: %w", w, err)
		}
		tables = append(tables, t)
	}
	tables = append(tables, experiment.ClaimTable(out.Claims))
	out.Seconds = time.Since(start).Seconds()
	markdown := func(w io.Writer) error {
		fmt.Fprintf(w, "# Classic pruning on MNIST, reproduced\n\nPrinted by `sparserun reproduce%s` (`make reproduce`) on %s, version %s. Means and sample deviations over seeds 1, 2, ...; a run depends on its seed and on the vector instructions in use (%s here), not on the number of threads. MNIST alone proves little (Blalock 2020): it is what these papers report.\n\n",
			map[bool]string{true: " --quick"}[c.Quick], time.Now().UTC().Format("2006-01-02"), Version, linalg.ISA())
		for _, t := range tables {
			if err := t.Markdown(w); err != nil {
				return err
			}
		}
		return nil
	}
	if err := writeFile(filepath.Join(c.Out, "reproduce.md"), markdown); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(c.Out, "reproduce.json"), func(w io.Writer) error { return encodeJSON(w, out) }); err != nil {
		return err
	}
	if err := g.print(out, func(w io.Writer) { _ = markdown(w) }); err != nil {
		return err
	}
	for _, claim := range out.Claims {
		if !claim.Holds && claim.Must && !c.Tables {
			return fmt.Errorf("claim does not hold: %s: %s", claim.Text, claim.Found)
		}
	}
	return nil
}

// watch shows how far the runs are: a bar on a terminal, else a line now and then.
func (c *reproduceCmd) watch(g *globals, lab *experiment.Lab) {
	bar := g.progress(1000, "reproduce")
	var mu sync.Mutex
	last := time.Now()
	lab.Log = func(s string) { g.logf("%s", s) }
	lab.Progress = func(p experiment.LabProgress) {
		mu.Lock()
		defer mu.Unlock()
		bar.set(int(1000*p.Share), p.What)
		if bar.bar == nil && time.Since(last) > 30*time.Second {
			last = time.Now()
			g.logf("%.1f %%, about %s left: %s", 100*p.Share, p.Left.Round(time.Second), p.What)
		}
	}
}

// one runs an experiment and writes its files.
func (c *reproduceCmd) one(g *globals, lab *experiment.Lab, what string, p plans, out *reproduceJSON) (experiment.Table, error) {
	file := func(ext string) string { return filepath.Join(c.Out, what+ext) }
	var t experiment.Table
	var csv func(io.Writer) error
	var runs any
	var lines []experiment.Line
	title, x, y := "", "", ""
	switch what {
	case "han":
		r, err := lab.Han(g.ctx, p.han)
		if err != nil {
			return t, err
		}
		out.Han = experiment.HanRows(r)
		out.Claims = append(out.Claims, experiment.HanClaims(p.han, out.Han)...)
		t, runs, lines = experiment.HanTable(out.Han), r, experiment.HanLines(out.Han)
		title, x, y = "LeNets on MNIST", "times fewer parameters", "test error %"
		csv = func(w io.Writer) error { return experiment.HanCSV(w, r) }
	case "levels":
		r, err := lab.Levels(g.ctx, p.levels)
		if err != nil {
			return t, err
		}
		out.Levels = experiment.LevelRows(r)
		dense := experiment.LevelsDense(r)
		out.Claims = append(out.Claims, experiment.LevelClaims(out.Levels)...)
		t, runs, lines = experiment.LevelTable(p.levels, out.Levels, dense), r, experiment.LevelLines(p.levels, out.Levels, dense)
		title, x, y = p.levels.Net+" on MNIST", "sparsity %", "test accuracy %"
		csv = func(w io.Writer) error { return experiment.LevelsCSV(w, r) }
	case "lottery":
		r, err := lab.Lottery(g.ctx, p.lottery)
		if err != nil {
			return t, err
		}
		out.Lottery = experiment.LotteryRows(r)
		out.Claims = append(out.Claims, experiment.LotteryClaims(p.lottery, out.Lottery)...)
		t, runs, lines = experiment.LotteryTable(p.lottery, out.Lottery), r, experiment.LotteryLines(r)
		title, x, y = "Lottery ticket, LeNet-300-100 on MNIST", "step", "accuracy on held-back images %"
		csv = func(w io.Writer) error { return experiment.LotteryCSV(w, r) }
	}
	for ext, f := range map[string]func(io.Writer) error{".md": t.Markdown, ".csv": csv, ".json": func(w io.Writer) error { return encodeJSON(w, runs) }} {
		if err := writeFile(file(ext), f); err != nil {
			return t, err
		}
	}
	return t, experiment.Chart(file(".png"), title, x, y, lines)
}

func encodeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
