package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tokenizer"
	"github.com/sparserun/sparserun/tokenizer/chat"
)

type runCmd struct {
	Model string `arg:"" help:"Model file or folder."`
	engine
	Prompt string `short:"p" default:"Once upon a time" help:"Text to continue; @FILE reads it from a file."`
	Tokens int    `short:"n" default:"64" help:"Tokens to write."`
	NoEOS  bool   `name:"ignore-eos" help:"Go on after an end token (benchmarks)."`
	Chat   bool   `help:"Put the prompt into the model's chat template as the user's message."`
	System string `help:"With --chat: the system message."`

	Temperature   float64  `default:"0" help:"0 takes the most likely token."`
	TopK          int      `default:"0" help:"Draw from the k most likely tokens."`
	TopP          float64  `default:"0" help:"Draw from the most likely tokens of this total probability."`
	MinP          float64  `default:"0" help:"Draw from tokens of at least this share of the best one's probability."`
	RepeatPenalty float64  `default:"0" help:"Divide logits of tokens that occurred by this."`
	Seed          uint64   `default:"0" help:"Of the random draw."`
	Stop          []string `help:"Stop before this string (repeatable)." sep:"none"`

	Compare  bool   `help:"Run the same weights dense and sparse, alternating, and compare outputs and cost."`
	Baseline string `help:"With --compare: also run this (unpruned) model." placeholder:"MODEL"`
	Rounds   int    `default:"3" help:"With --compare: alternating rounds; medians are printed."`
	Prefill  int    `default:"256" help:"With --compare: tokens of the prompt that prefill is timed with."`
	Text     string `help:"With --compare: also print perplexity on this text file." placeholder:"FILE"`
	Window   int    `default:"512" help:"With --text: tokens of a window."`
	Windows  int    `default:"4" help:"With --text: number of windows."`
	Input    string `help:"Networks: the input, .npy, .json or raw float32; else noise of --seed." placeholder:"FILE"`
	Batch    int    `default:"1" help:"Networks: rows of the noise."`
	Shape    []int  `help:"Networks: shape of the input, where the file leaves it open (1,3,224,224)." placeholder:"N,..."`

	Explain bool `help:"Print for every layer which layout ran and why."`
}

// Help is shown by --help below the flags' head.
func (*runCmd) Help() string {
	return `Examples:
  sparserun run model.gguf -p "The capital of France is" -n 32
  sparserun run pruned.safetensors --chat -p "Name three rivers." --temperature 0.7 --seed 1
  sparserun run pruned.safetensors --compare --baseline model.gguf --text notes.txt
  sparserun run pruned.safetensors --sparse off --dtype int8 --json
  sparserun run pruned.onnx --input image.npy --dtype f32 --compare --batch 16`
}

// sideJSON is one execution of one model.
type sideJSON struct {
	Model         string             `json:"model"`
	DType         string             `json:"dtype"`
	WeightBytes   int64              `json:"weight_bytes"`
	LinearBytes   int64              `json:"linear_bytes"` // of the layers that pruning may touch
	MetadataBytes int64              `json:"metadata_bytes"`
	KVBytes       int64              `json:"kv_bytes"`
	PeakBytes     int64              `json:"peak_bytes,omitempty"`
	LoadSeconds   float64            `json:"load_seconds"`
	FirstSeconds  float64            `json:"load_to_first_token_seconds"`
	Prefill       float64            `json:"prefill_tokens_per_s"`
	Decode        float64            `json:"decode_tokens_per_s"`
	Latency       map[string]float64 `json:"latency_ms"`
	Perplexity    float64            `json:"perplexity,omitempty"`
	Layouts       map[string]int     `json:"layouts"`
	EnergyJ       *float64           `json:"energy_joules,omitempty"`
}

type runJSON struct {
	Text        string            `json:"text"`
	DenseText   string            `json:"dense_text,omitempty"`
	BaseText    string            `json:"baseline_text,omitempty"`
	Tokens      int               `json:"tokens"`
	Finish      string            `json:"finish"`
	Baseline    *sideJSON         `json:"baseline,omitempty"`
	Dense       *sideJSON         `json:"dense,omitempty"`
	Sparse      *sideJSON         `json:"sparse,omitempty"`
	Speedup     *speedup          `json:"speedup,omitempty"`
	MemoryRatio float64           `json:"memory_ratio,omitempty"`
	MaxAbsError *float64          `json:"max_abs_error,omitempty"`
	Tolerance   float64           `json:"tolerance,omitempty"`
	Energy      string            `json:"energy,omitempty"`
	Explain     []*runtime.Choice `json:"explain,omitempty"`
}

type speedup struct {
	Prefill float64 `json:"prefill"`
	Decode  float64 `json:"decode"`
}

func (c *runCmd) sampling() runtime.Sampling {
	return runtime.Sampling{Temperature: c.Temperature, TopK: c.TopK, TopP: c.TopP, MinP: c.MinP, RepeatPenalty: c.RepeatPenalty, Seed: c.Seed}
}

func (c *runCmd) Run(g *globals) error {
	if c.Tokens < 1 || c.Rounds < 1 || c.Prefill < 1 || c.Batch < 1 {
		return usagef("-n, --rounds, --prefill and --batch must be at least 1")
	}
	compare := c.Compare || c.Baseline != ""
	if err := g.idle([]flagRule{
		{"window windows", c.Text != "", "--text"},
		{"system", c.Chat, "--chat"},
		{"group", integers(c.DType), "--dtype int8 or int4"},
		{"ignore-eos", !compare, "a run without --compare, which ends where the text does"},
	}); err != nil {
		return err
	}
	s := c.sampling()
	if err := s.Check(); err != nil {
		return usageError{err}
	}
	if file, ok := strings.CutPrefix(c.Prompt, "@"); ok {
		text, err := readText(file)
		if err != nil {
			return err
		}
		c.Prompt = text
	}
	b, err := c.backend(g)
	if err != nil {
		return err
	}
	defer b.Close()
	runtime.ResetPeakRSS()
	start := time.Now()
	gr, err := loader.Open(c.Model, c.loadOptions()...)
	if err != nil {
		return err
	}
	defer gr.Close()
	if err := g.idle([]flagRule{
		{"prompt tokens ignore-eos chat system temperature top-k top-p min-p repeat-penalty stop prefill text", gr.Config != nil, "a language model; this is a network"},
		{"prefill text", compare, "--compare"},
		{"input shape batch", gr.Config == nil, "a network; a language model takes -p"},
	}); err != nil {
		return err
	}
	if gr.Config == nil {
		if t, ok := b.(runtime.TensorsElsewhere); ok { // its energy is measured, too
			b = t.Tensors()
		}
		return c.network(g, b, gr)
	}
	if compare {
		gr.Close() // each contender opens the model by itself, for its own memory and start
		return c.compare(g, b)
	}
	return c.single(g, b, gr, start)
}

// single runs one model and streams its text.
func (c *runCmd) single(g *globals, b runtime.Backend, gr *model.Graph, start time.Time) error {
	energy := openMeter(b)
	s, err := c.compile(gr, b, c.Sparse, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	gr.Close() // the session holds its own packed weights
	load := time.Since(start)
	o := runtime.GenerateOptions{Sampling: c.sampling(), MaxTokens: c.Tokens, Stop: c.Stop, IgnoreEOS: c.NoEOS}
	if !g.JSON {
		o.Stream = func(t string) error {
			_, err := io.WriteString(g.stdout, t)
			return err
		}
	}
	r, err := c.generate(g, s, o)
	if err != nil {
		return err
	}
	side := newSide(c.Model, c.DType, s)
	side.LoadSeconds = load.Seconds()
	side.FirstSeconds = load.Seconds() + r.First.Seconds()
	side.rates(s.Counters())
	if p, ok := runtime.PeakRSS(); ok {
		side.PeakBytes = p
	}
	out := runJSON{Text: r.Text, Tokens: len(r.Tokens), Finish: r.Finish, Energy: "not measured"}
	if j, source := energy.joules(); source != "" {
		side.EnergyJ, out.Energy = &j, source
	}
	if anySparse(side.Layouts) {
		out.Sparse = side
	} else {
		out.Dense = side
	}
	if c.Explain {
		out.Explain = s.Explain()
	}
	return g.print(out, func(w io.Writer) {
		fmt.Fprintln(w)
		if c.Explain {
			explain(g.stderr, s.Explain())
		}
		g.logf("%d tokens; load %.2f s, first token after %.2f s, prefill %.0f tokens/s, decode %.1f tokens/s; weights %s, KV cache %s; %s",
			len(r.Tokens), side.LoadSeconds, side.FirstSeconds, side.Prefill, side.Decode, size(side.WeightBytes), size(side.KVBytes), side.layoutLine())
	})
}

// generate applies the chat template where asked and continues the prompt.
func (c *runCmd) generate(g *globals, s *runtime.Session, o runtime.GenerateOptions) (*runtime.Result, error) {
	if !c.Chat {
		return s.Generate(g.ctx, c.Prompt, o)
	}
	text, err := c.chatPrompt(s)
	if err != nil {
		return nil, err
	}
	// The template writes its own special tokens, the first one included.
	ids := s.Graph().Tokenizer.Encode(text, tokenizer.EncodeOptions{ParseSpecial: true, BOS: tokenizer.Never})
	return s.GenerateTokens(g.ctx, ids, o)
}

func (c *runCmd) chatPrompt(s *runtime.Session) (string, error) {
	tok := s.Graph().Tokenizer
	if tok == nil || tok.ChatTemplate() == "" {
		return "", fmt.Errorf("%s: no chat template in the file", c.Model)
	}
	t, err := chat.Parse(tok.ChatTemplate())
	if err != nil {
		return "", err
	}
	var msgs []chat.Message
	if c.System != "" {
		msgs = append(msgs, chat.Message{Role: "system", Content: c.System})
	}
	msgs = append(msgs, chat.Message{Role: "user", Content: c.Prompt})
	return t.Render(msgs, chat.Options{AddGenerationPrompt: true, BOS: string(tok.Token(int32(tok.BOS()))), EOS: string(tok.Token(int32(tok.EOS())))})
}

func newSide(name, dtype string, s *runtime.Session) *sideJSON {
	m := s.Counters().Memory
	side := &sideJSON{Model: name, DType: dtype, WeightBytes: m.Weights.Total(), MetadataBytes: m.Weights.Metadata, KVBytes: m.KVUsed,
		Layouts: map[string]int{}}
	linear := map[string]bool{}
	for _, n := range s.Graph().Linears() {
		linear[n.Weight.Name] = true
	}
	for _, c := range s.Explain() {
		if linear[c.Name] {
			side.Layouts[c.Layout]++
			side.LinearBytes += c.Bytes
		}
	}
	return side
}

// anySparse reports whether any weight runs in a sparse form.
func anySparse(layouts map[string]int) bool {
	for l, n := range layouts {
		if l != sparse.LayoutDense.String() && n > 0 {
			return true
		}
	}
	return false
}

func (x *sideJSON) layoutLine() string {
	var parts []string
	for _, l := range sparse.Layouts {
		if n := x.Layouts[l.String()]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d layers %v", n, l))
		}
	}
	return strings.Join(parts, ", ")
}

func (x *sideJSON) rates(c *runtime.Counters) {
	x.Prefill = c.TokensPerSecond(runtime.Prefill)
	x.Decode = c.TokensPerSecond(runtime.Decode)
	x.KVBytes = c.Memory.KVUsed
	x.Latency = quantiles(&c.Between)
}

// quantiles are latency_ms of JSON.
func quantiles(l *runtime.Latencies) map[string]float64 {
	return map[string]float64{"p50": ms(l.Quantile(.5)), "p95": ms(l.Quantile(.95)), "p99": ms(l.Quantile(.99))}
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

// explain prints which layout every weight runs in, and why.
func explain(w io.Writer, cs []*runtime.Choice) {
	t := table{}
	t.add("weight", "shape", "zeros", "layout", "type", "bytes", "why")
	for _, c := range cs {
		t.add(c.Name, fmt.Sprintf("%dx%d", c.Rows, c.Cols), percent(c.Sparsity), c.Layout, c.DType, fmt.Sprint(c.Bytes), c.Reason)
	}
	t.write(w)
}

func readText(path string) (string, error) {
	b, err := os.ReadFile(path)
	return string(b), err
}
