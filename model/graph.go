// Package model says what a network is: a Graph of Nodes over Values, with
// Weights in whatever form their file stores them.
//
// Architectures (Llama family) build Graphs from a Config and named weights; the
// names are those of Hugging Face checkpoints, whatever file they came from.
// Values are matrices of rows x width: a row is a token of a language model or
// an item of a batch.
package model

import (
	"errors"
	"fmt"
	"io"

	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tokenizer"
)

// Errors of this package; every error wraps one of them.
var (
	ErrConfig = errors.New("invalid model configuration")
	ErrWeight = errors.New("missing or mismatched weight")
	ErrGraph  = errors.New("invalid graph")
)

// DType and Layout are the leaf package's: one vocabulary for the whole house.
type (
	DType  = sparse.DType
	Layout = sparse.Layout
)

// Weight is one named parameter. A vector (norm, bias) is a matrix of one row.
type Weight struct {
	Name  string
	Shape []int         // as the file has it: [out, in], or [n]
	Data  sparse.Matrix // rows = Shape[0], columns = the product of the rest; a vector is [1, n]
}

// Vector reads a one-row weight as float32.
func (w *Weight) Vector() ([]float32, error) { return sparse.Read(w.Data) }

// Rank1 reports whether the weight is a vector.
func (w *Weight) Rank1() bool { return len(w.Shape) == 1 }

// ValueID names a Value of a Graph by its position.
type ValueID int

// Value is an activation: rows x Width numbers.
type Value struct {
	Name  string
	Width int
	// Of a tensor graph: the type, and the shape where the file states one (-1: a
	// dimension that is free, such as the batch; nil: any shape).
	Elem  Elem
	Shape []int
}

// Op names what a Node computes; the names are the field's.
type Op string

// The ops. In says what a Node reads, Out what it writes, attr its Attr's type.
const (
	// OpEmbedding: out[i] = weight[in[i]]; in: token ids. weight [vocab, width].
	OpEmbedding Op = "Embedding"
	// OpLinear: out = in * weight^T (+ bias). weight [out, in].
	OpLinear Op = "Linear"
	// OpRMSNorm: out = in / sqrt(mean(in^2) + eps) * weight, over groups of
	// attr.Width columns (0: the whole row). Zhang & Sennrich 2019. attr RMSNorm.
	OpRMSNorm Op = "RMSNorm"
	// OpRoPE rotates pairs (i, i+d/2) of every head of d columns by position *
	// inverse frequency i. Su et al. 2021, half-split form. attr RoPE.
	OpRoPE Op = "RoPE"
	// OpAttention: causal grouped-query attention with a KV cache; in: q, k, v.
	// attr Attention.
	OpAttention Op = "Attention"
	// OpSiLUGate: out = silu(in[0]) * in[1] (SwiGLU, Shazeer 2020).
	OpSiLUGate Op = "SiLUGate"
	// OpAdd: out = in[0] + in[1].
	OpAdd Op = "Add"
	// OpMul: out = in[0] * in[1].
	OpMul Op = "Mul"
	// OpReLU: out = max(in, 0).
	OpReLU Op = "Relu"
	// OpSoftmax: over a row.
	OpSoftmax Op = "Softmax"
	// OpSelect: out = the rows of in that the caller asks for (a language model
	// needs logits of few of its tokens).
	OpSelect Op = "Select"
)

// RMSNorm are the attributes of OpRMSNorm.
type RMSNorm struct {
	Eps   float32
	Width int // columns that are normalised together; 0: the row
}

// RoPE are the attributes of OpRoPE.
type RoPE struct {
	HeadDim int
	InvFreq []float64 // [HeadDim/2] radians per position
	Scale   float32   // of cos and sin (YaRN's attention factor); 1 usually
}

// Attention are the attributes of OpAttention.
type Attention struct {
	Layer   int // which KV cache
	Heads   int
	KVHeads int // Heads is a multiple
	HeadDim int
	Scale   float32 // of q*k before the softmax
	Window  int     // sliding window in tokens; 0: none
}

// Node is one step of a network.
type Node struct {
	Op     Op
	Name   string
	In     []ValueID
	Out    ValueID
	Outs   []ValueID // of a tensor graph: all outputs, Out first; NoValue where one is not wanted
	Weight *Weight   // nil where the op has none
	Bias   *Weight
	Attr   any
}

// Graph is a network: nodes in an order in which every value is written before it
// is read. Close releases what the weights read from.
type Graph struct {
	Name    string
	Arch    string  // "llama", "qwen2", ...; "" for plain networks
	Config  *Config // nil unless it is a language model
	Values  []Value
	Nodes   []*Node
	Inputs  []ValueID
	Outputs []ValueID
	Weights []*Weight // every weight once, in the order of the nodes
	// Tokenizer is nil for plain networks.
	Tokenizer *tokenizer.Tokenizer
	// Opsets (version by domain) and Constants are those of a tensor graph, nil elsewhere.
	Opsets    map[string]int
	Constants map[ValueID]*Tensor
	// Source is where the graph came from.
	Source Source

	closers []io.Closer
}

// Source says where a Graph came from and what happened to it since.
type Source struct {
	Path   string
	Format string            // "gguf", "safetensors", ...
	Meta   map[string]string // the file's metadata; provenance of pruning
	// Tokenizer gives the files that the tokenizer came from by name, so that
	// saving can keep them; nil: there are none.
	Tokenizer func() (map[string][]byte, error) `json:"-"`
}

// OnClose has c closed with the graph.
func (g *Graph) OnClose(c io.Closer) { g.closers = append(g.closers, c) }

// Close releases the files that weights read from. Weights that live in memory
// stay usable.
func (g *Graph) Close() error {
	var errs []error
	for _, c := range g.closers {
		errs = append(errs, c.Close())
	}
	g.closers = nil
	return errors.Join(errs...)
}

// Linears lists the nodes whose weight is a matrix that pruning may touch by
// default: every Linear but the language model's head, and the convolutions of a
// tensor graph.
func (g *Graph) Linears() []*Node {
	var out []*Node
	for _, n := range g.Nodes {
		if n.Op == OpLinear && n.Name != HeadName || n.Op == OpConv && n.Weight != nil && g.Tensors() {
			out = append(out, n)
		}
	}
	return out
}

// Weight finds a weight by name.
func (g *Graph) Weight(name string) (*Weight, error) {
	for _, w := range g.Weights {
		if w.Name == name {
			return w, nil
		}
	}
	return nil, fmt.Errorf("model: %q: no such weight: %w", name, ErrWeight)
}

// Parameters is the number of weights, shared ones counted once.
func (g *Graph) Parameters() int64 {
	var n int64
	for _, w := range g.Weights {
		r, c := w.Data.Dims()
		n += int64(r) * int64(c)
	}
	return n
}

// WeightBytes is the memory of all weights in their present form.
func (g *Graph) WeightBytes() sparse.Bytes {
	var b sparse.Bytes
	for _, w := range g.Weights {
		b = b.Add(w.Data.Bytes())
	}
	return b
}

// builder appends nodes with fresh values and registers weights once.
type builder struct {
	g    *Graph
	seen map[*Weight]bool
}

func (b *builder) value(name string, width int) ValueID {
	b.g.Values = append(b.g.Values, Value{Name: name, Width: width})
	return ValueID(len(b.g.Values) - 1)
}

func (b *builder) node(op Op, name string, width int, attr any, w, bias *Weight, in ...ValueID) ValueID {
	out := b.value(name, width)
	b.g.Nodes = append(b.g.Nodes, &Node{Op: op, Name: name, In: in, Out: out, Weight: w, Bias: bias, Attr: attr})
	for _, x := range []*Weight{w, bias} {
		if x != nil && !b.seen[x] {
			b.seen[x] = true
			b.g.Weights = append(b.g.Weights, x)
		}
	}
	return out
}

// Check validates the graph: order, widths and weight shapes.
func (g *Graph) Check() error {
	if g.Tensors() {
		return g.checkTensors()
	}
	written := make([]bool, len(g.Values))
	for _, v := range g.Inputs {
		written[v] = true
	}
	for _, n := range g.Nodes {
		for _, v := range n.In {
			if int(v) >= len(written) || !written[v] {
				return fmt.Errorf("model: node %q reads a value that nothing wrote: %w", n.Name, ErrGraph)
			}
		}
		if n.Op == OpLinear {
			r, c := n.Weight.Data.Dims()
			if in, out := g.Values[n.In[0]].Width, g.Values[n.Out].Width; c != in || r != out {
				return fmt.Errorf("model: %q: want [%d %d], got [%d %d]: %w", n.Weight.Name, out, in, r, c, ErrWeight)
			}
		}
		written[n.Out] = true
	}
	for _, v := range g.Outputs {
		if !written[v] {
			return fmt.Errorf("model: output %d is never written: %w", v, ErrGraph)
		}
	}
	return nil
}
