// Command run prints the tables of package experiment:
//
//	go run ./experiment/run deep -net lenet-5 -seeds 3 -journal deep.jsonl
//	go run ./experiment/run resnet20 -journal resnet20.jsonl
//
// A run that was stopped goes on from its journal.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	goruntime "runtime"

	"github.com/sparserun/sparserun/dataset"
	"github.com/sparserun/sparserun/experiment"
	"github.com/sparserun/sparserun/train"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 1 {
		return fmt.Errorf("want deep or resnet20")
	}
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	data := f.String("data", os.Getenv("SPARSERUN_DATA"), "folder of the data sets")
	journal := f.String("journal", "", "file that finished parts are kept in")
	dir := f.String("dir", os.TempDir(), "folder that networks are written to")
	net := f.String("net", "lenet-300-100", "network, of deep")
	seeds := f.Int("seeds", 3, "runs, of seeds 1, 2, ...")
	threads := f.Int("threads", goruntime.GOMAXPROCS(0), "threads")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if *data == "" {
		*data = "../shared/data"
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var j *experiment.Journal
	if *journal != "" {
		var err error
		if j, err = experiment.OpenJournal(*journal); err != nil {
			return err
		}
	}
	log := func(s string) { fmt.Fprintln(os.Stderr, s) }
	switch args[0] {
	case "deep":
		d, err := train.OpenMNIST(filepath.Join(*data, "mnist"))
		if err != nil {
			return err
		}
		c, err := experiment.Compressions(*net)
		if err != nil {
			return err
		}
		var rows []experiment.Compressed
		for s := range *seeds {
			r, err := experiment.DeepCompression(ctx, d, c, uint64(s+1), *dir, *threads, j, log)
			if err != nil {
				return err
			}
			rows = append(rows, r)
		}
		return show(experiment.DeepTable(os.Stdout, rows), experiment.DeepClaims(rows))
	case "resnet20":
		images, err := dataset.CIFAR(filepath.Join(*data, "resnet", "cifar10_test_jpeg_0000-1999.bin.gz"))
		if err != nil {
			return err
		}
		d, err := images.Items(dataset.ImageNet)
		if err != nil {
			return err
		}
		sl := experiment.ResNet20Slimming()
		var rows []experiment.Slimmed
		for s := range *seeds {
			r, err := experiment.ResNet20(ctx, filepath.Join(*data, "resnet", "resnet20.onnx"), d, sl, uint64(s+1), *dir, *threads, j, log)
			if err != nil {
				return err
			}
			rows = append(rows, r)
		}
		return show(experiment.ResNet20Table(os.Stdout, rows, sl.Folds), experiment.SlimClaims(rows))
	}
	return fmt.Errorf("want deep or resnet20, got %q", args[0])
}

// show prints what was claimed and what was found, below a table that went well.
func show(table error, claims []experiment.Claim) error {
	if table != nil {
		return table
	}
	fmt.Println()
	return experiment.ClaimTable(claims).Markdown(os.Stdout)
}
