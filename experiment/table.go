package experiment

import (
	"fmt"
	"io"
	"math"
	"strings"
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

// column is one column of a table of runs: how a run's figure is read and printed.
type column[T any] struct {
	head   string
	of     func(T) float64
	format string
}

// markdown writes runs as rows, mean and deviation last.
func markdown[T any](w io.Writer, first string, name func(T) string, rows []T, cols []column[T]) error {
	head, rule, mean := []string{first}, []string{"---"}, []string{"mean ± std"}
	for _, c := range cols {
		head, rule = append(head, c.head), append(rule, "---:")
		var x []float64
		for _, r := range rows {
			x = append(x, c.of(r))
		}
		m, s := meanStd(x)
		mean = append(mean, fmt.Sprintf(c.format+" ± "+c.format, m, s))
	}
	lines := [][]string{head, rule}
	for _, r := range rows {
		line := []string{name(r)}
		for _, c := range cols {
			line = append(line, fmt.Sprintf(c.format, c.of(r)))
		}
		lines = append(lines, line)
	}
	for _, l := range append(lines, mean) {
		if _, err := fmt.Fprintln(w, "| "+strings.Join(l, " | ")+" |"); err != nil {
			return err
		}
	}
	return nil
}

// DeepTable prints runs of DeepCompression with the definition of their figures.
func DeepTable(w io.Writer, rows []Compressed) error {
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintf(w, "Deep Compression, %s. Errors in %% of the 10,000 test images; the coded network is read back from the file. Compression: bytes of %d float32 parameters over all bytes of the file.\n\n", rows[0].Net, rows[0].Parameters)
	col := func(head, format string, of func(Compressed) float64) column[Compressed] {
		return column[Compressed]{head, of, format}
	}
	return markdown(w, "seed", func(r Compressed) string { return fmt.Sprint(r.Seed) }, rows, []column[Compressed]{
		col("dense error", "%.2f", func(r Compressed) float64 { return 100 * (1 - r.Dense) }),
		col("pruned error", "%.2f", func(r Compressed) float64 { return 100 * (1 - r.Pruned) }),
		col("coded error", "%.2f", func(r Compressed) float64 { return 100 * (1 - r.Coded) }),
		col("fewer parameters", "%.1f", func(r Compressed) float64 { return r.Fewer }),
		col("without Huffman", "%.1f", func(r Compressed) float64 { return float64(r.DenseBytes) / float64(r.PlainBytes) }),
		col("compression", "%.1f", func(r Compressed) float64 { return r.Ratio }),
		col("bytes", "%.0f", func(r Compressed) float64 { return float64(r.FileBytes) }),
		col("value bits", "%.2f", func(r Compressed) float64 { return r.ValueBits }),
		col("index bits", "%.2f", func(r Compressed) float64 { return r.IndexBits }),
	})
}
