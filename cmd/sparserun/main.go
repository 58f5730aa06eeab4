// Command sparserun prunes trained models and runs them, always showing dense
// beside sparse. Run `sparserun --help`, or `sparserun VERB --help` for examples.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	goruntime "runtime"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// Version is written into pruned files and printed by --version.
const Version = "0.1.0"

// Exit codes of every verb.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a mistake in how the command was called: exit code 2.
type usageError struct{ error }

func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

// globals are the flags of every verb and what verbs write to.
type globals struct {
	JSON    bool             `help:"Print one JSON object on stdout and nothing else there." name:"json"`
	Quiet   bool             `short:"q" help:"No progress on stderr."`
	Threads int              `short:"t" help:"CPU threads (default: all cores)." env:"SPARSERUN_THREADS"`
	Version kong.VersionFlag `help:"Print the version and exit."`

	ctx    context.Context
	stdout io.Writer
	stderr io.Writer
	given  map[string]bool // names of the flags on the command line
}

type cli struct {
	globals
	Run         runCmd         `cmd:"" help:"Run a model: generate text, dense beside sparse with --compare."`
	Prune       pruneCmd       `cmd:"" help:"Prune a model and write it."`
	Train       trainCmd       `cmd:"" help:"Train a network, or fine-tune one; what is pruned stays pruned."`
	Eval        evalCmd        `cmd:"" help:"Measure a model's quality."`
	Sweep       sweepCmd       `cmd:"" help:"Prune a model in many ways and compare quality, size and speed."`
	Sensitivity sensitivityCmd `cmd:"" help:"Prune every matrix of a network alone and measure what it costs."`
	Reproduce   reproduceCmd   `cmd:"" help:"Repeat published tables of pruning."`
	Inspect     inspectCmd     `cmd:"" help:"Show what is in a model file."`
	Bench       benchCmd       `cmd:"" help:"Time kernels, dense and sparse, on this machine."`
	Verify      verifyCmd      `cmd:"" help:"Check a pruned model: mask, pattern, outputs, bytes."`
	Serve       serveCmd       `cmd:"" help:"Serve models over HTTP and gRPC, with dense beside sparse counted live."`
}

const description = `Sparse inference for pruned models.

file -> loader -> model.Graph -> prune (+ train) -> sparse (pack) -> runtime.Plan -> cpu | cuda Program -> Counters -> cmd / serve

Exit codes: 0 done, 1 failed, 2 wrong usage.`

func main() {
	errorsNotSignals()
	os.Exit(realMain(os.Args[1:], os.Stdout, os.Stderr))
}

// realMain is main for tests: it returns the exit code.
func realMain(args []string, stdout, stderr io.Writer) (code int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal kills: a read of a pipe, say, sees no context
	c := cli{globals: globals{ctx: ctx, stdout: stdout, stderr: stderr}}
	exited := -1
	parser, err := kong.New(&c, kong.Name("sparserun"), kong.Description(description), kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.Vars{"version": "sparserun " + Version, "methods": methodHelp},
		kong.Writers(stdout, stderr), kong.Exit(func(n int) { exited = n; panic(exited) }))
	if err != nil {
		fmt.Fprintln(stderr, "sparserun:", err)
		return exitFailed
	}
	defer func() { // kong's --help and --version leave through Exit
		if r := recover(); r != nil {
			if exited < 0 {
				panic(r)
			}
			code = exited
		}
	}()
	k, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(stderr, "sparserun: %s (see sparserun --help)\n", oneLine(err))
		return exitUsage
	}
	if c.Threads < 0 {
		fmt.Fprintf(stderr, "sparserun: --threads: want at least 0 (all cores), got %d (see sparserun --help)\n", c.Threads)
		return exitUsage
	}
	c.given = map[string]bool{}
	for _, p := range k.Path {
		if p.Flag != nil {
			c.given[p.Flag.Name] = true
		}
	}
	err = k.Run(&c.globals)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "sparserun %s: %s (see sparserun %s --help)\n", k.Command(), oneLine(err), strings.Fields(k.Command())[0])
		return exitUsage
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "sparserun: interrupted")
		return exitFailed
	}
	fmt.Fprintf(stderr, "sparserun: %s\n", oneLine(err))
	return exitFailed
}

func oneLine(err error) string { return visible(strings.ReplaceAll(err.Error(), "\n", "; ")) }

// threads is --threads, or one for each core.
func (g *globals) threads() int {
	if g.Threads > 0 {
		return g.Threads
	}
	return goruntime.GOMAXPROCS(0)
}

// print writes v as JSON with --json, else calls text.
func (g *globals) print(v any, text func(w io.Writer)) error {
	if !g.JSON {
		text(g.stdout)
		return nil
	}
	e := json.NewEncoder(g.stdout)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// logf writes a line to stderr, unless quiet.
func (g *globals) logf(format string, a ...any) {
	if !g.Quiet {
		fmt.Fprintf(g.stderr, format+"\n", a...)
	}
}
