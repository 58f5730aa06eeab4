package experiment

import (
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Stat is the mean over seeds and the sample's standard deviation.
type Stat struct {
	Mean float64 `json:"mean"`
	Std  float64 `json:"std"`
	N    int     `json:"n"`
}

func statOf(x []float64) Stat {
	m, s := meanStd(x)
	return Stat{m, s, len(x)}
}

func (s Stat) text(scale float64, digits int) string {
	if s.N < 2 {
		return fmt.Sprintf("%.*f", digits, scale*s.Mean)
	}
	return fmt.Sprintf("%.*f ± %.*f", digits, scale*s.Mean, digits, scale*s.Std)
}

// Table is a table of an experiment: what it shows in words, and its cells.
type Table struct {
	Title string
	Notes []string
	Head  []string
	Rows  [][]string
}

// Markdown writes the table with its title and notes.
func (t Table) Markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n", t.Title)
	rule := slices.Repeat([]string{"---"}, len(t.Head))
	for _, r := range append([][]string{t.Head, rule}, t.Rows...) {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(r, " | "))
	}
	b.WriteString("\n")
	for _, n := range t.Notes {
		fmt.Fprintf(&b, "%s\n\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeCSV writes lines under a head.
func writeCSV(w io.Writer, head []string, rows [][]string) error {
	c := csv.NewWriter(w)
	_ = c.Write(head)
	for _, r := range rows {
		_ = c.Write(r)
	}
	c.Flush()
	return c.Error()
}

func num(x float64) string { return strconv.FormatFloat(x, 'g', 8, 64) }

// group collects runs under keys, in the order in which keys first appear.
func group[T any, K comparable](runs []T, key func(T) K) (keys []K, of map[K][]T) {
	of = map[K][]T{}
	for _, r := range runs {
		k := key(r)
		if of[k] == nil {
			keys = append(keys, k)
		}
		of[k] = append(of[k], r)
	}
	return keys, of
}

func each[T any](runs []T, f func(T) float64) Stat {
	x := make([]float64, len(runs))
	for i, r := range runs {
		x[i] = f(r)
	}
	return statOf(x)
}

// HanRow is a variant over all seeds; errors are shares.
type HanRow struct {
	Net     string      `json:"net"`
	Variant string      `json:"variant"`
	Dense   Stat        `json:"dense_error"`
	Error   Stat        `json:"error"`
	Rise    Stat        `json:"rise"` // error over its own dense run's
	Fewer   float64     `json:"parameters_ratio"`
	Smaller float64     `json:"bytes_ratio"`
	Layers  []LayerKept `json:"layers"` // mean
}

// HanRows sums up runs by network and variant.
func HanRows(runs []CompactRun) []HanRow {
	keys, of := group(runs, func(r CompactRun) [2]string { return [2]string{r.Net, r.Variant} })
	var out []HanRow
	for _, k := range keys {
		g := of[k]
		row := HanRow{Net: k[0], Variant: k[1], Dense: each(g, func(r CompactRun) float64 { return r.Dense }), Error: each(g, func(r CompactRun) float64 { return r.Error }),
			Rise:  each(g, func(r CompactRun) float64 { return r.Error - r.Dense }),
			Fewer: each(g, func(r CompactRun) float64 { return r.Footprint.Fewer() }).Mean, Smaller: each(g, func(r CompactRun) float64 { return r.Footprint.Smaller() }).Mean}
		for i, l := range g[0].Footprint.Layers {
			row.Layers = append(row.Layers, LayerKept{l.Name, each(g, func(r CompactRun) float64 { return r.Footprint.Layers[i].Kept }).Mean})
		}
		out = append(out, row)
	}
	return out
}

// HanTable is Han et al. 2015's table for the LeNets, and beyond.
func HanTable(rows []HanRow) Table {
	t := Table{Title: "Han et al. 2015: LeNets with fewer parameters", Head: []string{"network", "variant", "seeds", "dense error %", "error %", "rise, points", "fewer parameters", "fewer bytes", "kept by matrix %"},
		Notes: []string{FootprintRule,
			"Errors are of the 10,000 test images; what is chosen (the best of the evaluations) is chosen on 5,000 held-back training images; the recipes themselves (LAMP, distillation) were found in trials of one seed that showed both. The paper: LeNet-300-100 1.64 -> 1.59 % at 12x (fc1 8, fc2 9, fc3 26 % kept), LeNet-5 0.80 -> 0.77 % at 12x (conv1 66, conv2 12, fc1 8, fc2 19 %).",
			"Distilled: the loss is 0.3 cross-entropy and 0.7 divergence from the dense network's answers at temperature 4, which the paper did not use; the control in the first line of LeNet-300-100 gives the dense network the same training on. Spliced: dynamic network surgery while sparsity rises. Of LeNet-5, 50x goes on from the 12x network and 100x from the 50x one. Shortened: 12 epochs for LeNet-300-100 and 5, 3, 8, 3 for LeNet-5; the paper does not say how long it trained."}}
	for _, r := range rows {
		var kept []string
		for _, l := range r.Layers {
			kept = append(kept, fmt.Sprintf("%s %.3g", strings.TrimSuffix(l.Name, ".weight"), 100*l.Kept))
		}
		t.Rows = append(t.Rows, []string{r.Net, r.Variant, strconv.Itoa(r.Error.N), r.Dense.text(100, 2), r.Error.text(100, 2), fmt.Sprintf("%+.2f ± %.2f", 100*r.Rise.Mean, 100*r.Rise.Std),
			fmt.Sprintf("%.1f", r.Fewer), fmt.Sprintf("%.1f", r.Smaller), strings.Join(kept, ", ")})
	}
	return t
}

// HanCSV writes one line a run.
func HanCSV(w io.Writer, runs []CompactRun) error {
	var rows [][]string
	for _, r := range runs {
		rows = append(rows, []string{r.Net, r.Variant, fmt.Sprint(r.Seed), num(r.Dense), num(r.Error), strconv.Itoa(r.Footprint.Parameters), strconv.Itoa(r.Footprint.Kept),
			strconv.FormatInt(r.Footprint.DenseBytes, 10), strconv.FormatInt(r.Footprint.Bytes, 10), num(r.Seconds)})
	}
	return writeCSV(w, []string{"net", "variant", "seed", "dense_error", "error", "parameters", "kept", "dense_bytes", "bytes", "seconds"}, rows)
}

// LevelRow is a method and schedule over all seeds: Loss is by how much accuracy fell, by sparsity.
type LevelRow struct {
	Method  string           `json:"method"`
	Gradual bool             `json:"gradual"`
	Loss    map[string]Stat  `json:"loss"` // by sparsity, e.g. "0.9"
	at      map[float64]Stat // the same
}

// LevelRows sums up runs by method and schedule.
func LevelRows(runs []LevelRun) []LevelRow {
	type kind struct {
		method  string
		gradual bool
	}
	keys, of := group(runs, func(r LevelRun) kind { return kind{r.Method, r.Gradual} })
	var out []LevelRow
	for _, k := range keys {
		row := LevelRow{Method: k.method, Gradual: k.gradual, Loss: map[string]Stat{}, at: map[float64]Stat{}}
		levels, byLevel := group(of[k], func(r LevelRun) float64 { return r.Sparsity })
		for _, s := range levels {
			row.at[s] = each(byLevel[s], func(r LevelRun) float64 { return r.Dense - r.Accuracy })
			row.Loss[num(s)] = row.at[s]
		}
		out = append(out, row)
	}
	return out
}

// LevelTable is accuracy against sparsity.
func LevelTable(p Levels, rows []LevelRow, dense Stat) Table {
	t := Table{Title: "Accuracy lost against sparsity, " + p.Net, Head: []string{"method", "schedule"},
		Notes: []string{fmt.Sprintf("Points of test accuracy below the dense network (%s %%), mean ± std over %d seeds; negative is better than dense. Every network has %d epochs of fine-tuning from the same dense one (%d epochs): once after pruning, or while sparsity rises along Zhu and Gupta's cubic over the first half.", dense.text(100, 2), dense.N, p.Tune, p.Epochs),
			"magnitude and random prune every matrix alike; gradient is SNIP's |w g| over all matrices at once; sensitivity is magnitude with each matrix's own rate from a scan, at which each alone costs the same loss. Expected bands: 0-0.5 points at 50 %, 0.5-1 at 80 %, 1-2 at 90 %, 2-5 at 95 %."}}
	for _, s := range p.Sparsity {
		t.Head = append(t.Head, fmt.Sprintf("%g %%", 100*s))
	}
	for _, r := range rows {
		line := []string{r.Method, scheduleName(r.Gradual)}
		for _, s := range p.Sparsity {
			if x, ok := r.at[s]; ok {
				line = append(line, x.text(100, 2))
			} else {
				line = append(line, "-")
			}
		}
		t.Rows = append(t.Rows, line)
	}
	return t
}

// LevelsDense is the accuracy of the dense networks behind runs.
func LevelsDense(runs []LevelRun) Stat {
	seeds, of := group(runs, func(r LevelRun) uint64 { return r.Seed })
	var x []float64
	for _, s := range seeds {
		x = append(x, of[s][0].Dense)
	}
	return statOf(x)
}

// LevelsCSV writes one line a run.
func LevelsCSV(w io.Writer, runs []LevelRun) error {
	var rows [][]string
	for _, r := range runs {
		rows = append(rows, []string{r.Method, map[bool]string{false: "oneshot", true: "gradual"}[r.Gradual], num(r.Sparsity), fmt.Sprint(r.Seed), num(r.Dense), num(r.Pruned), num(r.Accuracy)})
	}
	return writeCSV(w, []string{"method", "schedule", "sparsity", "seed", "dense_accuracy", "pruned_valid_accuracy", "accuracy"}, rows)
}

// LotteryRow is one kind of run at one size over all seeds.
type LotteryRow struct {
	Kind   string  `json:"kind"`
	Round  int     `json:"round"`
	Kept   float64 `json:"kept"`
	Stop   Stat    `json:"early_stop"`
	AtStop Stat    `json:"accuracy_at_stop"`
	AtEnd  Stat    `json:"accuracy_at_end"`
}

// LotteryRows sums up runs by round and kind.
func LotteryRows(runs []LotteryRun) []LotteryRow {
	type key struct {
		round int
		kind  string
	}
	keys, of := group(runs, func(r LotteryRun) key { return key{r.Round, r.Kind} })
	slices.SortStableFunc(keys, func(a, b key) int {
		if a.round != b.round {
			return a.round - b.round
		}
		return slices.Index(lotteryOrder, firstWords(a.kind)) - slices.Index(lotteryOrder, firstWords(b.kind))
	})
	var out []LotteryRow
	for _, k := range keys {
		g := of[k]
		out = append(out, LotteryRow{Kind: k.kind, Round: k.round, Kept: g[0].Kept, Stop: each(g, func(r LotteryRun) float64 { return float64(r.EarlyStop) }),
			AtStop: each(g, func(r LotteryRun) float64 { return r.AtStop }), AtEnd: each(g, func(r LotteryRun) float64 { return r.AtEnd })})
	}
	return out
}

var lotteryOrder = []string{DenseRun, Ticket, Rewound, Reinit, RandomMask}

// firstWords is a kind without what stands in brackets.
func firstWords(kind string) string {
	name, _, _ := strings.Cut(kind, " (")
	return name
}

// LotteryTable is the lottery ticket's table.
func LotteryTable(p Lottery, rows []LotteryRow) Table {
	t := Table{Title: "The lottery ticket, LeNet-300-100", Head: []string{"kept %", "run", "seeds", "early stop, step", "accuracy there %", "accuracy at the end %"},
		Notes: []string{fmt.Sprintf("Adam at 1.2e-3, batches of 60, Glorot normal weights, pixels of mean 0.1307 and deviation 0.3081; a fifth of each hidden layer's survivors and a tenth of the output's go in a round. Early stop: the step, of multiples of %d, with the smallest loss on 5,000 held-back images; accuracies are of the test images. Runs have %d steps (the paper: 50,000), rounds between the measured ones %d.", p.Every, p.Steps, p.Short),
			"Random re-init: the ticket's masks with new weights. Random mask: the ticket's initial weights, as many in each layer but anywhere. Rewound: back to step k of the dense run; its steps count from there on. Where early stop lies within a tenth of the end the run was too short to tell, and the step is a lower bound."}}
	for _, r := range rows {
		t.Rows = append(t.Rows, []string{fmt.Sprintf("%.1f", 100*r.Kept), r.Kind, strconv.Itoa(r.Stop.N), r.Stop.text(1, 0), r.AtStop.text(100, 2), r.AtEnd.text(100, 2)})
	}
	return t
}

// LotteryCSV writes the curves: one line an evaluation.
func LotteryCSV(w io.Writer, runs []LotteryRun) error {
	var rows [][]string
	for _, r := range runs {
		for _, e := range r.Curve {
			rows = append(rows, []string{r.Kind, fmt.Sprint(r.Seed), strconv.Itoa(r.Round), num(r.Kept), strconv.Itoa(e.Step), num(e.Loss), num(e.Value)})
		}
	}
	return writeCSV(w, []string{"run", "seed", "round", "kept", "step", "valid_loss", "valid_accuracy"}, rows)
}

// Claim is a published statement held against our figures.
type Claim struct {
	Text  string `json:"claim"`
	Found string `json:"found"`
	Holds bool   `json:"holds"`
	// Must: a reproduction that misses it has failed.
	Must bool `json:"must"`
}

// Goal is what a network must reach: at so many times fewer parameters an error of at most so many
// points over its dense one's.
type Goal struct {
	Factor, Points float64
}

// HanClaims checks the goals of plans.
func HanClaims(plans []Compact, rows []HanRow) []Claim {
	var out []Claim
	for _, p := range plans {
		for _, goal := range p.Goals {
			// The first variant of the plan that is small enough, not the best of several by
			// their test error: that would choose on the test images.
			i := slices.IndexFunc(rows, func(r HanRow) bool { return r.Net == p.Net && r.Fewer >= goal.Factor-0.01 })
			if i < 0 {
				continue
			}
			of := rows[i]
			best := of.Rise.Mean
			out = append(out, Claim{fmt.Sprintf("%s: %gx fewer parameters, error at most %+.2f points over its dense one's", p.Net, goal.Factor, goal.Points),
				fmt.Sprintf("%+.2f ± %.2f points (%s, %.1fx, %d seeds)", 100*best, 100*of.Rise.Std, of.Variant, of.Fewer, of.Rise.N), 100*best <= goal.Points+1e-9, true})
		}
	}
	return out
}

// LevelClaims checks the bands: the better schedule of a method must lose no more than the band's end.
func LevelClaims(rows []LevelRow) []Claim {
	var out []Claim
	for _, b := range []struct{ s, points float64 }{{0.5, 0.5}, {0.8, 1}, {0.9, 2}, {0.95, 5}} {
		for _, method := range []string{"magnitude", "gradient", "sensitivity"} {
			best := math.Inf(1)
			for _, r := range rows {
				if x, ok := r.at[b.s]; ok && r.Method == method {
					best = math.Min(best, x.Mean)
				}
			}
			if !math.IsInf(best, 1) {
				out = append(out, Claim{fmt.Sprintf("%s at %g %%: at most %g points lost", method, 100*b.s, b.points), fmt.Sprintf("%+.2f points lost", 100*best), 100*best <= b.points, true})
			}
		}
	}
	return append(out, controls(rows)...)
}

// controls: at the highest sparsity every method must be better than random pruning on the same
// schedule, or the comparison says nothing.
func controls(rows []LevelRow) []Claim {
	var out []Claim
	for _, c := range rows {
		if c.Method != "random" {
			continue
		}
		top := 0.0
		for s := range c.at {
			top = math.Max(top, s)
		}
		for _, r := range rows {
			if x, ok := r.at[top]; ok && r.Gradual == c.Gradual && r.Method != c.Method {
				out = append(out, Claim{fmt.Sprintf("%s at %g %%, %s: better than random", r.Method, 100*top, scheduleName(r.Gradual)),
					fmt.Sprintf("%+.2f against %+.2f points lost", 100*x.Mean, 100*c.at[top].Mean), x.Mean < c.at[top].Mean, true})
			}
		}
	}
	return out
}

func scheduleName(gradual bool) string {
	if gradual {
		return "gradual"
	}
	return "one-shot"
}

// LotteryClaims checks the paper's statements. When a run stops improving is told only by runs that
// are long enough for the dense network to do so.
func LotteryClaims(p Lottery, rows []LotteryRow) []Claim {
	long := p.Steps >= FullLottery().Steps
	find := func(kind string, round int) *LotteryRow {
		for i := range rows {
			if firstWords(rows[i].Kind) == kind && rows[i].Round == round {
				return &rows[i]
			}
		}
		return nil
	}
	dense := find(DenseRun, 0)
	var out []Claim
	if dense == nil {
		return nil
	}
	if r := find(Ticket, 7); r != nil {
		out = append(out, Claim{"winning tickets reach or beat dense at 21.1 % (accuracy at early stop)", fmt.Sprintf("%.2f against %.2f %%", 100*r.AtStop.Mean, 100*dense.AtStop.Mean), r.AtStop.Mean >= dense.AtStop.Mean, true},
			Claim{"and at the end of the run", fmt.Sprintf("%.2f against %.2f %%", 100*r.AtEnd.Mean, 100*dense.AtEnd.Mean), r.AtEnd.Mean >= dense.AtEnd.Mean, false})
	}
	for _, round := range []int{3, 7} {
		if r := find(Ticket, round); r != nil {
			out = append(out, Claim{fmt.Sprintf("winning tickets stop earlier than dense at %.1f %%", 100*r.Kept), fmt.Sprintf("step %.0f against %.0f", r.Stop.Mean, dense.Stop.Mean), r.Stop.Mean < dense.Stop.Mean, long})
		}
	}
	for _, round := range []int{7, 15} {
		if r, c := find(Ticket, round), find(Reinit, round); r != nil && c != nil {
			out = append(out, Claim{fmt.Sprintf("random re-initialisation is worse at %.1f %%", 100*r.Kept), fmt.Sprintf("%.2f against the ticket's %.2f %% at the end, %.2f against %.2f %% at early stop", 100*c.AtEnd.Mean, 100*r.AtEnd.Mean, 100*c.AtStop.Mean, 100*r.AtStop.Mean), c.AtEnd.Mean < r.AtEnd.Mean, true})
		}
	}
	if r := find(Ticket, 15); r != nil {
		out = append(out, Claim{"at 3.6 % the ticket is back at dense's accuracy or above", fmt.Sprintf("%.2f against %.2f %% at the end", 100*r.AtEnd.Mean, 100*dense.AtEnd.Mean), r.AtEnd.Mean >= dense.AtEnd.Mean-0.001, false})
	}
	return out
}

// ClaimTable prints claims, those that fail too.
func ClaimTable(claims []Claim) Table {
	t := Table{Title: "Claims", Head: []string{"claim", "found", "holds"}}
	for _, c := range claims {
		t.Rows = append(t.Rows, []string{c.Text, c.Found, map[bool]string{true: "yes", false: "no"}[c.Holds]})
	}
	return t
}
