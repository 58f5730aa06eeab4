package experiment

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/sparserun/sparserun/prune/depgraph"
)

// meanStd of x; the deviation is the sample's.
func meanStd(x []float64) (mean, std float64) {
	for _, v := range x {
		mean += v / float64(len(x))
	}
	if len(x) < 2 {
		return mean, 0
	}
	for _, v := range x {
		std += (v - mean) * (v - mean)
	}
	return mean, math.Sqrt(std / float64(len(x)-1))
}

// column is one column of a table of runs: how a run's figure is read and printed; NaN: there is none.
type column[T any] struct {
	head   string
	format string
	of     func(T) float64
}

func heads[T any](first []string, cols []column[T]) []string {
	for _, c := range cols {
		first = append(first, c.head)
	}
	return first
}

// bySeed are runs as rows, with mean and deviation last where there are several.
func bySeed[T any](name string, seed func(T) uint64, runs []T, cols []column[T]) [][]string {
	var out [][]string
	mean := []string{name, "mean ± std"}
	for _, r := range runs {
		line := []string{name, fmt.Sprint(seed(r))}
		for _, c := range cols {
			line = append(line, cellText(c.format, c.of(r)))
		}
		out = append(out, line)
	}
	if len(runs) < 2 {
		return out
	}
	for _, c := range cols {
		var x []float64
		for _, r := range runs {
			if v := c.of(r); !math.IsNaN(v) {
				x = append(x, v)
			}
		}
		if len(x) == 0 {
			mean = append(mean, "-")
			continue
		}
		m, s := meanStd(x)
		mean = append(mean, fmt.Sprintf(c.format+" ± "+strings.ReplaceAll(c.format, "+", ""), m, s))
	}
	return append(out, mean)
}

func cellText(format string, v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return fmt.Sprintf(format, v)
}

// DeepTable is Deep Compression's table, with the definition of its figures.
func DeepTable(plans []Compression, runs []Compressed) Table {
	cols := []column[Compressed]{
		{"dense error %", "%.2f", func(r Compressed) float64 { return 100 * (1 - r.Dense) }},
		{"pruned error %", "%.2f", func(r Compressed) float64 { return 100 * (1 - r.Pruned) }},
		{"coded error %", "%.2f", func(r Compressed) float64 { return 100 * (1 - r.Coded) }},
		{"fewer parameters", "%.1f", func(r Compressed) float64 { return r.Fewer }},
		{"fewer bytes without Huffman", "%.1f", func(r Compressed) float64 { return float64(r.DenseBytes) / float64(r.PlainBytes) }},
		{"fewer bytes", "%.1f", func(r Compressed) float64 { return r.Ratio }},
		{"bytes", "%.0f", func(r Compressed) float64 { return float64(r.FileBytes) }},
		{"value bits", "%.2f", func(r Compressed) float64 { return r.ValueBits }},
		{"index bits", "%.2f", func(r Compressed) float64 { return r.IndexBits }},
	}
	t := Table{Title: "Deep Compression", Head: heads([]string{"network", "seed"}, cols), Notes: []string{
		"Fewer bytes: those of the float32 parameters over all bytes of the file, network and tables included. Errors are of the 10,000 test images, which choose nothing; the coded network is read back from the file. The paper: LeNet-300-100 1.64 -> 1.58 %, 40x; LeNet-5 0.80 -> 0.74 %, 39x."}}
	nets, of := group(runs, func(r Compressed) string { return r.Net })
	for _, n := range nets {
		t.Rows = append(t.Rows, bySeed(n, func(r Compressed) uint64 { return r.Seed }, of[n], cols)...)
	}
	for _, c := range plans {
		if len(of[c.Net]) == 0 {
			continue
		}
		note := fmt.Sprintf("%s: %d epochs dense, %d while magnitude pruning keeps %v of its matrices, %d of codebooks of %v bits", c.Net, c.Dense.Epochs, c.Prune.Epochs, c.Keep, c.Share.Epochs, c.Bits)
		if c.Teach.Weight > 0 {
			note += fmt.Sprintf("; distilled from the dense network (temperature %g, weight %g), which the paper did not use", c.Teach.Temperature, c.Teach.Weight)
		}
		if c.Shift > 0 {
			note += fmt.Sprintf("; training images moved by up to %d pixels, for the dense network too", c.Shift)
		}
		t.Notes = append(t.Notes, note+".")
	}
	return t
}

// DeepCSV writes one line a run.
func DeepCSV(w io.Writer, runs []Compressed) error {
	var rows [][]string
	for _, r := range runs {
		rows = append(rows, []string{r.Net, fmt.Sprint(r.Seed), strconv.Itoa(r.Parameters), strconv.Itoa(r.Kept), num(r.Dense), num(r.Pruned), num(r.Coded),
			strconv.FormatInt(r.DenseBytes, 10), strconv.FormatInt(r.PlainBytes, 10), strconv.FormatInt(r.FileBytes, 10), num(r.ValueBits), num(r.IndexBits), num(r.Seconds)})
	}
	return writeCSV(w, []string{"net", "seed", "parameters", "kept", "dense_accuracy", "pruned_accuracy", "coded_accuracy", "dense_bytes", "bytes_without_huffman", "bytes", "value_bits", "index_bits", "seconds"}, rows)
}

// ResNet20Table is the table of slimmed networks, with how the images were split.
func ResNet20Table(p Slimming, runs []Slimmed) Table {
	cols := []column[Slimmed]{
		{"dense %", "%.2f", func(r Slimmed) float64 { return 100 * r.Dense }},
		{"before tuning %", "%.2f", func(r Slimmed) float64 { return 100 * r.Cut }},
		{"pruned %", "%.2f", func(r Slimmed) float64 { return 100 * r.Tuned }},
		{"points", "%+.2f", func(r Slimmed) float64 { return 100 * (r.Tuned - r.Dense) }},
		{"fewer FLOPs %", "%.1f", func(r Slimmed) float64 { return 100 * (1 - float64(r.MACs[1])/float64(r.MACs[0])) }},
		{"fewer parameters %", "%.1f", func(r Slimmed) float64 { return 100 * (1 - float64(r.Parameters[1])/float64(r.Parameters[0])) }},
	}
	for i, batch := range latencyBatches {
		at := func(f func(Latency) float64) func(Slimmed) float64 {
			return func(r Slimmed) float64 {
				if i >= len(r.Latency) {
					return math.NaN()
				}
				return f(r.Latency[i])
			}
		}
		cols = append(cols, column[Slimmed]{fmt.Sprintf("batch %d: dense ms", batch), "%.2f", at(func(l Latency) float64 { return l.Dense })},
			column[Slimmed]{"pruned ms", "%.2f", at(func(l Latency) float64 { return l.Pruned })}, column[Slimmed]{"speed-up", "%.2f", at(Latency.Speedup)})
	}
	t := Table{Title: "Structure: ResNet-20 with fewer channels", Head: heads([]string{"network", "seed"}, cols)}
	if len(runs) > 0 {
		t.Rows = bySeed("resnet20", func(r Slimmed) uint64 { return r.Seed }, runs, cols)
	}
	threads := "not measured yet"
	for _, r := range runs {
		if len(r.Latency) > 0 {
			threads = fmt.Sprintf("medians of interleaved runs, %d threads", r.Latency[0].Threads)
		}
	}
	t.Notes = []string{fmt.Sprintf("%d CIFAR-10 test images (from a lossy JPEG copy) in %d folds: every image is tested by a network that was fine-tuned, %d epochs, on the other folds alone; no choice was made on it but that of the score. %g %% of the multiply-adds go, by %s, channels between the two convolutions of a block, in multiples of %d; the residual stream stays. Latency: %s.",
		p.Images, p.Folds, p.Tune.Epochs, 100*p.Prune.Ratio, scoreName(p.Prune.Score), p.Prune.RoundTo, threads)}
	return t
}

func scoreName(s depgraph.Score) string {
	if s == depgraph.Median {
		return "distance to the geometric median"
	}
	return string(s)
}

// ResNet20CSV writes one line a run.
func ResNet20CSV(w io.Writer, runs []Slimmed) error {
	head := []string{"seed", "images", "dense_accuracy", "accuracy_before_tuning", "accuracy", "parameters_dense", "parameters", "multiply_adds_dense", "multiply_adds"}
	for _, b := range latencyBatches {
		head = append(head, fmt.Sprintf("batch_%d_dense_ms", b), fmt.Sprintf("batch_%d_ms", b))
	}
	var rows [][]string
	for _, r := range runs {
		row := []string{fmt.Sprint(r.Seed), strconv.Itoa(r.Images), num(r.Dense), num(r.Cut), num(r.Tuned)}
		for _, v := range []int64{r.Parameters[0], r.Parameters[1], r.MACs[0], r.MACs[1]} {
			row = append(row, strconv.FormatInt(v, 10))
		}
		for i := range latencyBatches {
			if i < len(r.Latency) {
				row = append(row, num(r.Latency[i].Dense), num(r.Latency[i].Pruned))
			} else {
				row = append(row, "", "")
			}
		}
		rows = append(rows, row)
	}
	return writeCSV(w, head, rows)
}
