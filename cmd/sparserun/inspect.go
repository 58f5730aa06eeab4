package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sparserun/sparserun/codebook"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

type inspectCmd struct {
	Model   string `arg:"" help:"Model file or folder."`
	Tensors bool   `help:"List every tensor."`
	Fast    bool   `help:"Do not read the weights: no sparsity."`
	fileFlags
}

// Help is shown by --help below the flags' head.
func (*inspectCmd) Help() string {
	return `Examples:
  sparserun inspect model.gguf
  sparserun inspect pruned.safetensors --tensors
  sparserun inspect model/ --json`
}

type tensorJSON struct {
	Name     string   `json:"name"`
	Shape    []int    `json:"shape"`
	DType    string   `json:"dtype"`
	Layout   string   `json:"layout"`
	Sparsity *float64 `json:"sparsity,omitempty"`
	Hold24   *bool    `json:"holds_2_4,omitempty"`
	Bytes    int64    `json:"bytes"`
}

type inspectJSON struct {
	Format     string            `json:"format"`
	Arch       string            `json:"arch"`
	Config     *model.Config     `json:"config,omitempty"`
	Parameters int64             `json:"parameters"`
	Sparsity   *float64          `json:"sparsity,omitempty"`
	Bytes      int64             `json:"weight_bytes"`
	DenseBytes int64             `json:"dense_weight_bytes"` // in 16 bits
	Bits       float64           `json:"bits_per_weight"`
	Meta       map[string]string `json:"metadata,omitempty"`
	Tensors    []tensorJSON      `json:"tensors"`
	// Codebook says how a codebook file's bytes are spent, by matrix.
	Codebook map[string]codebook.Stats `json:"codebook,omitempty"`
}

const flow = "file -> loader -> model.Graph -> prune (+ train) -> sparse (pack) -> runtime.Plan -> cpu | cuda Program -> Counters -> cmd / serve"

func (c *inspectCmd) Run(g *globals) error {
	gr, err := loader.Open(c.Model, c.loadOptions()...)
	if err != nil {
		return err
	}
	defer gr.Close()
	out := inspectJSON{Format: gr.Source.Format, Arch: gr.Arch, Config: gr.Config, Parameters: gr.Parameters(), Bytes: gr.WeightBytes().Total()}
	out.DenseBytes = 2 * out.Parameters
	out.Bits = 8 * float64(out.Bytes) / float64(max(out.Parameters, 1))
	out.Meta = map[string]string{}
	for k, v := range gr.Source.Meta {
		if len(v) <= 200 { // embedded configs and tokenizers are not for reading
			out.Meta[k] = v
		}
	}
	var total sparse.Count
	bar := g.progress(len(gr.Weights), "reading")
	for i, w := range gr.Weights {
		t := tensorJSON{Name: w.Name, Shape: w.Shape, DType: w.Data.DType().String(), Layout: w.Data.Layout().String(), Bytes: w.Data.Bytes().Total()}
		if !c.Fast {
			cnt, err := sparse.CountZeros(w.Data)
			if err != nil {
				return err
			}
			s, h := cnt.Sparsity(), cnt.Hold24
			t.Sparsity, t.Hold24 = &s, &h
			total.Weights += cnt.Weights
			total.Zeros += cnt.Zeros
		}
		out.Tensors = append(out.Tensors, t)
		bar.set(i+1, w.Name)
		if g.ctx.Err() != nil {
			return g.ctx.Err()
		}
	}
	bar.done()
	if !c.Fast {
		s := total.Sparsity()
		out.Sparsity = &s
	}
	if out.Format == "codebook" {
		if out.Codebook, err = codebookStats(c.Model); err != nil {
			return err
		}
	}
	return g.print(out, func(w io.Writer) {
		c.text(w, &out)
		if out.Codebook != nil {
			fmt.Fprintln(w)
			codebookTable(w, out.Codebook)
		}
	})
}

func (c *inspectCmd) text(w io.Writer, out *inspectJSON) {
	fmt.Fprintf(w, "%s\n\n%s, %s: %d parameters, %s, %.3f bits a weight (%.3f of 16-bit dense)\n", flow,
		out.Format, out.Arch, out.Parameters, size(out.Bytes), out.Bits, float64(out.Bytes)/float64(max(out.DenseBytes, 1)))
	if cfg := out.Config; cfg != nil {
		fmt.Fprintf(w, "%d layers, width %d, MLP %d, %d heads of %d, %d KV heads, vocabulary %d, context %d, RoPE theta %g, tied head %v\n",
			cfg.Layers, cfg.Hidden, cfg.FFN, cfg.Heads, cfg.HeadDim, cfg.KVHeads, cfg.Vocab, cfg.Context, cfg.RopeTheta, cfg.Tied)
	}
	if out.Sparsity != nil {
		fmt.Fprintf(w, "zeros: %s of all weights\n", percent(*out.Sparsity))
	}
	for _, k := range sortedKeys(out.Meta) {
		if strings.HasPrefix(k, "prune.") || strings.HasPrefix(k, "sparserun.") {
			fmt.Fprintf(w, "%s: %s\n", visible(k), visible(out.Meta[k]))
		}
	}
	if !c.Tensors {
		return
	}
	t := table{}
	t.add("tensor", "shape", "type", "layout", "zeros", "2:4", "bytes")
	for _, x := range out.Tensors {
		zeros, nm := "-", "-"
		if x.Sparsity != nil {
			zeros, nm = percent(*x.Sparsity), fmt.Sprint(*x.Hold24)
		}
		t.add(x.Name, strings.Trim(fmt.Sprint(x.Shape), "[]"), x.DType, x.Layout, zeros, nm, fmt.Sprint(x.Bytes))
	}
	fmt.Fprintln(w)
	t.write(w)
}

func sortedKeys[T any](m map[string]T) []string {
	var ks []string
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}
