// Command kernels times the CPU backend's Linear kernels on weights that come
// from memory, and sets them beside what the machine can do: the rate at which it
// reads memory and multiplies.
//
//	go run ./bench/kernels -shapes 4096x4096,768x3072 -batch 1 -threads 1
//
// Every kernel has enough copies of its weight to outgrow the caches; rounds go
// round robin over kernels, and the median and the best round are printed.
package main

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/runtime/cpu"
)

// row is one measurement, with the keys of sparserun bench --json.
type row struct {
	Op       string  `json:"op"`
	Rows     int     `json:"rows"`
	Cols     int     `json:"cols"`
	Batch    int     `json:"batch"`
	Layout   string  `json:"layout"`
	Weight   string  `json:"weight"`
	Act      string  `json:"act"`
	Sparsity float64 `json:"sparsity"`
	Threads  int     `json:"threads"`
	Ns       float64 `json:"ns"`
	BestNs   float64 `json:"best_ns"`
	Bytes    int64   `json:"bytes"`
	GBs      float64 `json:"gb_per_s"`
	GFLOPs   float64 `json:"gflop_per_s"` // of the dense equivalent
	DenseNs  float64 `json:"dense_ns"`    // of our best dense form of the same type
	Speedup  float64 `json:"speedup"`
	OfLimit  float64 `json:"of_limit"` // of the memory's read rate
}

func main() {
	log.SetFlags(0)
	shapes := flag.String("shapes", "4096x4096", "rows x columns, comma separated")
	kernels := flag.String("kernels", "dense/f32,dense/f16,dense/bf16,dense/int8,dense/int4,nm24/f16,nm24/int8,nm24/int4", "layout/type[/sparsity], comma separated")
	batches := flag.String("batch", "1", "rows of activations, comma separated")
	threads := flag.String("threads", "1", "threads, comma separated")
	rounds := flag.Int("rounds", 7, "rounds over all kernels")
	cold := flag.Int("cold", 160, "MiB of weights that each kernel rotates over")
	group := flag.Int("group", 64, "columns per scale of int4")
	asJSON := flag.Bool("json", false, "one JSON object on stdout")
	flag.Parse()
	if err := linalg.CheckISA(); err != nil {
		log.Fatal(err)
	}
	b := bench{rounds: *rounds, cold: *cold << 20, group: *group}
	var all []row
	limits := map[string]cpu.Limits{}
	for _, th := range ints(*threads) {
		be := cpu.New(cpu.Threads(th))
		lim, err := be.Measure(512 << 20)
		if err != nil {
			log.Fatal(err)
		}
		limits[strconv.Itoa(th)] = lim
		if !*asJSON {
			fmt.Printf("# %s, %d threads: reads %.1f GB/s, FMA %.0f GFLOP/s, int8 %.0f GOP/s\n", linalg.ISA(), th, lim.Read/1e9, lim.FMA/1e9, lim.Dot/1e9)
			fmt.Println("rows  cols  batch thr layout  weight sparsity       us   best us   GB/s of limit GFLOP/s  vs dense")
		}
		for _, shape := range strings.Split(*shapes, ",") {
			var r, c int
			if _, err := fmt.Sscanf(shape, "%dx%d", &r, &c); err != nil {
				log.Fatalf("kernels: -shapes %q: want rows x cols", shape)
			}
			for _, batch := range ints(*batches) {
				rows, err := b.run(be, th, r, c, batch, strings.Split(*kernels, ","), lim)
				if err != nil {
					log.Fatal(err)
				}
				all = append(all, rows...)
				if *asJSON {
					continue
				}
				for _, x := range rows {
					fmt.Printf("%-5d %-5d %-5d %-3d %-7s %-6s %8.2f %9.1f %9.1f %6.1f %8.2f %8.1f %8.2fx\n",
						x.Rows, x.Cols, x.Batch, x.Threads, x.Layout, x.Weight, x.Sparsity, x.Ns/1e3, x.BestNs/1e3, x.GBs, x.OfLimit, x.GFLOPs, x.Speedup)
				}
			}
		}
		_ = be.Close()
	}
	if *asJSON {
		if err := json.NewEncoder(os.Stdout).Encode(map[string]any{"isa": linalg.ISA().String(), "limits": limits, "rows": all}); err != nil {
			log.Fatal(err)
		}
	}
}

func ints(s string) []int {
	var out []int
	for _, f := range strings.Split(s, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 1 {
			log.Fatalf("kernels: %q: want positive integers", s)
		}
		out = append(out, n)
	}
	return out
}

type bench struct {
	rounds, cold, group int
}

// candidate is a kernel with its copies of the weight.
type candidate struct {
	row
	copies []*cpu.Linear
	next   int
	times  []float64
}

func (b bench) run(be *cpu.Backend, threads, rows, cols, batch int, names []string, lim cpu.Limits) ([]row, error) {
	var cs []*candidate
	defer func() {
		for _, c := range cs {
			for _, l := range c.copies {
				l.Close()
			}
		}
	}()
	for _, name := range names {
		spec, err := parse(name)
		if err != nil {
			return nil, err
		}
		m := spec.weight(rows, cols)
		c := &candidate{row: row{Op: "Linear", Rows: rows, Cols: cols, Batch: batch, Layout: spec.k.Layout.String(), Weight: spec.k.Weight.String(),
			Act: spec.k.Act.String(), Sparsity: spec.sparsity, Threads: threads}}
		for held := int64(0); held == 0 || held < int64(b.cold); held += c.Bytes {
			l, err := be.Linear(m, spec.k, spec.group(b.group), batch)
			if err != nil {
				return nil, err
			}
			l.Run(make([]float32, batch*cols)) // touches the memory of its results
			c.copies = append(c.copies, l)
			c.Bytes = l.Bytes().Total()
		}
		cs = append(cs, c)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	x := make([]float32, batch*cols)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	for range b.rounds {
		for _, c := range cs {
			// A round is at least 10 ms and goes on where the last one stopped.
			n := 0
			start := time.Now()
			for n < 4 || time.Since(start) < 10*time.Millisecond {
				c.copies[c.next%len(c.copies)].Run(x)
				c.next++
				n++
			}
			c.times = append(c.times, float64(time.Since(start).Nanoseconds())/float64(n))
		}
	}
	var out []row
	dense := map[string]float64{}
	for _, c := range cs {
		slices.Sort(c.times)
		c.Ns, c.BestNs = c.times[len(c.times)/2], c.times[0]
		if c.Layout == "dense" {
			dense[c.Weight] = c.Ns
		}
	}
	for _, c := range cs {
		c.GBs = float64(c.Bytes) / c.Ns
		c.OfLimit = c.GBs * 1e9 / lim.Read
		c.GFLOPs = 2 * float64(rows) * float64(cols) * float64(batch) / c.Ns
		c.DenseNs = dense[c.Weight]
		c.Speedup = cmp.Or(c.DenseNs, c.Ns) / c.Ns
		out = append(out, c.row)
	}
	return out, nil
}
