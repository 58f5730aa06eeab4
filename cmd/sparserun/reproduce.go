package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sparserun/sparserun/dataset"
	"github.com/sparserun/sparserun/experiment"
	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/train"
)

// reproduceCmd repeats published tables of pruning.
type reproduceCmd struct {
	What     []string `arg:"" optional:"" help:"han, levels, lottery, deep and resnet20 (default: all five)."`
	Mnist    string   `help:"Folder with MNIST's four files (all but resnet20 want it)." placeholder:"DIR"`
	Cifar    string   `help:"CIFAR-10 test images in binary form, for resnet20, which is left out without them unless it is named." placeholder:"FILE"`
	Resnet20 string   `help:"The trained network of resnet20 (default: resnet20.onnx beside the images)." name:"resnet20" placeholder:"FILE"`
	Out      string   `required:"" help:"Folder for tables (.md, .csv, .json, .png), networks, and the journals that an interrupted run goes on from." placeholder:"DIR"`
	Quick    bool     `help:"A short version, on few images, seeds and steps: about a minute."`
	Tables   bool     `help:"Run nothing: tables of the runs that are in the journals."`
	Jobs     int      `default:"0" help:"Runs side by side, one thread each (default: a core each)."`
}

// experiments are the words of the verb in the order of the page.
var experiments = []string{"han", "levels", "lottery", "deep", "resnet20"}

// Help is shown by --help below the flags' head.
func (*reproduceCmd) Help() string {
	return `han       Han et al. 2015: LeNet-300-100 and LeNet-5 with 12 times fewer parameters, and beyond
levels    accuracy against sparsity: magnitude, gradient, sensitivity, random; one-shot beside gradual
lottery   Frankle & Carbin 2019: winning tickets against random re-initialisation and random masks
deep      Han, Mao & Dally 2016 (Deep Compression): both LeNets pruned, in codebooks, Huffman coded
resnet20  ResNet-20 with 30 % fewer multiply-adds: channels removed, fine-tuned, timed

Results depend on the seeds, 1, 2, ..., never on --jobs. Finished runs are kept in journals; the
tables show means and deviations over seeds, and claims that fail stay in. reproduce.md is the
whole page, and its picture lies beside it. Exit code 1 if a claim on compression or accuracy fails.

Examples:
  sparserun reproduce --mnist mnist/ --cifar cifar.bin.gz --out bench/out/reproduce
  sparserun reproduce lottery --mnist mnist/ --out bench/out/reproduce --jobs 2
  sparserun reproduce --quick --mnist mnist/ --out /tmp/quick`
}

// plans are what the verb runs, in full or in short.
type plans struct {
	han      []experiment.Compact
	levels   experiment.Levels
	lottery  experiment.Lottery
	deep     []experiment.Compression
	resnet20 experiment.Slimming
}

type reproduceJSON struct {
	Han      []experiment.HanRow     `json:"han,omitempty"`
	Levels   []experiment.LevelRow   `json:"levels,omitempty"`
	Lottery  []experiment.LotteryRow `json:"lottery,omitempty"`
	Deep     []experiment.Compressed `json:"deep,omitempty"`
	ResNet20 []experiment.Slimmed    `json:"resnet20,omitempty"`
	Claims   []experiment.Claim      `json:"claims"`
	Seconds  float64                 `json:"seconds"`
}

func (c *reproduceCmd) Run(g *globals) error {
	if err := c.words(g); err != nil {
		return err
	}
	lab, err := c.lab()
	if err != nil {
		return err
	}
	start := time.Now()
	c.watch(g, lab)
	p := plans{experiment.Compacts(), experiment.FullLevels(), experiment.FullLottery(), experiment.Compressions(), experiment.ResNet20Slimming()}
	if c.Quick {
		p = plans{experiment.QuickCompacts(), experiment.QuickLevels(), experiment.QuickLottery(), experiment.QuickCompressions(), experiment.QuickSlimming()}
	}
	out := reproduceJSON{Claims: []experiment.Claim{}}
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
	markdown := func(w io.Writer) error { return c.page(w, tables) }
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

// words are the experiments asked for; without any, those that there is data for.
func (c *reproduceCmd) words(g *globals) error {
	named := len(c.What) > 0
	if !named {
		c.What = slices.Clone(experiments)
	}
	for _, w := range c.What {
		if !slices.Contains(experiments, w) {
			return usagef("want %s, got %q", strings.Join(experiments, ", "), w)
		}
	}
	if c.Mnist == "" && (len(c.What) > 1 || c.What[0] != "resnet20") {
		return usagef("--mnist: want the folder of MNIST's four files")
	}
	if c.Cifar == "" && !c.Tables && slices.Contains(c.What, "resnet20") {
		if named {
			return usagef("resnet20: --cifar: want the file of CIFAR images")
		}
		g.logf("resnet20 is left out: --cifar names no images")
		c.What = slices.DeleteFunc(c.What, func(w string) bool { return w == "resnet20" })
	}
	return nil
}

// lab has the images and the journal of the experiments on MNIST; resnet20 alone wants neither.
func (c *reproduceCmd) lab() (*experiment.Lab, error) {
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return nil, err
	}
	jobs := cmp.Or(c.Jobs, goruntime.GOMAXPROCS(0))
	if c.Mnist == "" {
		return &experiment.Lab{Jobs: jobs, Offline: c.Tables}, nil
	}
	j, err := experiment.OpenJournal(filepath.Join(c.Out, "journal.jsonl"))
	if err != nil {
		return nil, err
	}
	lab, err := experiment.OpenLab(c.Mnist, j, jobs)
	if err != nil {
		return nil, err
	}
	lab.Offline = c.Tables
	return lab, nil
}

// page is docs/reproduce.md.
func (c *reproduceCmd) page(w io.Writer, tables []experiment.Table) error {
	fmt.Fprintf(w, "# Classic pruning, reproduced\n\nPrinted by `sparserun reproduce%s` (`make reproduce`) on %s, version %s. Means and sample deviations over seeds 1, 2, ...; a run depends on its seed and on the vector instructions in use (%s here), not on the number of threads. MNIST alone proves little (Blalock 2020): it is what these papers report.\n\n",
		map[bool]string{true: " --quick"}[c.Quick], time.Now().UTC().Format("2006-01-02"), Version, linalg.ISA())
	if c.Tables {
		fmt.Fprintf(w, "Runs that are not finished are missing: the seeds say how many are in. `make reproduce` goes on from the journals in `%s`; `sparserun reproduce --tables` prints what is there.\n\n", filepath.ToSlash(c.Out))
	}
	if slices.Contains(c.What, "lottery") {
		fmt.Fprint(w, "![accuracy on held-back images by step](reproduce-lottery.png)\n\n")
	}
	for _, t := range tables {
		if err := t.Markdown(w); err != nil {
			return err
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
	case "deep":
		r, err := lab.Deep(g.ctx, p.deep, c.Out)
		if err != nil {
			return t, err
		}
		out.Deep = r
		out.Claims = append(out.Claims, experiment.DeepClaims(p.deep, r)...)
		t, runs = experiment.DeepTable(p.deep, r), r
		csv = func(w io.Writer) error { return experiment.DeepCSV(w, r) }
	case "resnet20":
		r, err := c.slim(g, lab, p.resnet20)
		if err != nil {
			return t, err
		}
		out.ResNet20 = r
		out.Claims = append(out.Claims, experiment.SlimClaims(p.resnet20, r)...)
		t, runs = experiment.ResNet20Table(p.resnet20, r), r
		csv = func(w io.Writer) error { return experiment.ResNet20CSV(w, r) }
	}
	for ext, f := range map[string]func(io.Writer) error{".md": t.Markdown, ".csv": csv, ".json": func(w io.Writer) error { return encodeJSON(w, runs) }} {
		if err := writeFile(file(ext), f); err != nil {
			return t, err
		}
	}
	if title == "" {
		return t, nil
	}
	return t, experiment.Chart(filepath.Join(c.Out, "reproduce-"+what+".png"), title, x, y, lines)
}

func (c *reproduceCmd) slim(g *globals, lab *experiment.Lab, p experiment.Slimming) ([]experiment.Slimmed, error) {
	var items *train.Items
	if !c.Tables {
		images, err := dataset.CIFAR(c.Cifar)
		if err != nil {
			return nil, err
		}
		if items, err = images.Items(dataset.ImageNet); err != nil {
			return nil, err
		}
	}
	return lab.ResNet20(g.ctx, p, cmp.Or(c.Resnet20, filepath.Join(filepath.Dir(c.Cifar), "resnet20.onnx")), items, c.Out, g.threads())
}

func encodeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
