// Command embed prunes a language model to 2:4 and runs it, in a few lines.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: embed MODEL PROMPT")
	}
	if err := run(os.Stdout, os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func run(w io.Writer, path, prompt string) error {
	g, err := loader.Open(path)
	if err != nil {
		return err
	}
	defer g.Close()
	rep, err := prune.Apply(g, prune.Magnitude{}, prune.Pattern24)
	if err != nil {
		return err
	}
	s, err := runtime.New(g, cpu.New())
	if err != nil {
		return err
	}
	defer s.Close()
	r, err := s.Generate(context.Background(), prompt, runtime.GenerateOptions{MaxTokens: 32})
	if err != nil {
		return err
	}
	c := s.Counters()
	fmt.Fprintf(w, "%s%s\n%v\n%d bytes of weights, decode %.1f tokens/s\n", prompt, r.Text, rep, c.Memory.Weights.Total(), c.TokensPerSecond(runtime.Decode))
	return nil
}
