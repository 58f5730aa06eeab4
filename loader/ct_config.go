package loader

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// ctConfig is what config.json says of compression.
type ctConfig struct {
	byName    map[string]*ctScheme
	patterns  []ctPattern
	byClass   map[string]*ctScheme
	structure string  // sparsity_structure
	declared  float64 // global_sparsity; negative: none
	newPack   bool    // written by 0.17 or later: codes straddle words
}

// ctScheme is how a weight is quantised.
type ctScheme struct {
	bits     int
	group    int // group_size; 0: none
	strategy string
	block    []int
	asym     bool
	actorder bool
}

// readCTConfig reads quantization_config (or its older name); an absent one is empty.
func readCTConfig(config object) (*ctConfig, error) {
	c := &ctConfig{declared: -1, byName: map[string]*ctScheme{}, byClass: map[string]*ctScheme{}}
	var r first
	q := take(config.obj("quantization_config"))(&r)
	if q == nil {
		q = take(config.obj("compression_config"))(&r)
	}
	if r.err != nil || q == nil {
		return c, r.err
	}
	if m := take(q.str("quant_method", "compressed-tensors"))(&r); r.err == nil && m != "compressed-tensors" && m != "sparseml" {
		return nil, fault(ErrUnsupported, "quantization_config", -1, "quant_method", "compressed-tensors", m)
	}
	if t := take(q.obj("transform_config"))(&r); len(take(t.obj("config_groups"))(&r)) > 0 {
		return nil, fault(ErrUnsupported, "quantization_config", -1, "transform_config", "none", "transforms")
	}
	var major, minor int
	fmt.Sscanf(take(q.str("version", ""))(&r), "%d.%d", &major, &minor)
	c.newPack = major > 0 || minor >= 17
	if s := take(q.obj("sparsity_config"))(&r); s != nil {
		c.structure = take(s.str("sparsity_structure", ""))(&r)
		c.declared = take(s.float("global_sparsity", -1))(&r)
		if c.declared > 1 {
			r.note(fault(ErrConfig, "global_sparsity", -1, "value", "0 to 1", c.declared))
		}
	}
	groups := take(q.obj("config_groups"))(&r)
	names := make([]string, 0, len(groups))
	for name := range groups {
		names = append(names, name)
	}
	slices.Sort(names) // the first match wins, on every run the same
	for _, name := range names {
		g := take(groups.obj(name))(&r)
		w := take(g.obj("weights"))(&r)
		if w == nil {
			continue
		}
		s := ctScheme{bits: take(w.int("num_bits", 8))(&r), group: take(w.int("group_size", 0))(&r), strategy: take(w.str("strategy", ""))(&r),
			block: take(w.ints("block_structure"))(&r), asym: !take(w.bool("symmetric", true))(&r)}
		if a, ok := w["actorder"].(string); ok {
			s.actorder = a == "group" || a == "dynamic"
		}
		s.group = max(0, s.group) // -1 is another way to say: the row
		if s.bits < 1 || s.bits > 8 {
			r.note(fault(ErrUnsupported, name, -1, "num_bits", "1 to 8", s.bits))
		}
		r.note(c.add(&s, take(g.strs("targets"))(&r)))
	}
	return c, r.err
}

// scheme finds how a module is quantised: by its name, by a pattern, by its class.
func (c *ctConfig) scheme(mod string) *ctScheme {
	if s := c.byName[mod]; s != nil {
		return s
	}
	for _, p := range c.patterns {
		if p.re.MatchString(mod) {
			return p.ctScheme
		}
	}
	class := "Linear"
	if strings.HasSuffix(mod, "embed_tokens") {
		class = "Embedding"
	}
	if s := c.byClass[class]; s != nil {
		return s
	}
	if len(c.byClass) == 1 { // a class of another name: there is no doubt which
		for _, s := range c.byClass {
			return s
		}
	}
	return &ctScheme{}
}

// maxPatterns bounds what each module's name is held against.
const maxPatterns = 64

type ctPattern struct {
	re *regexp.Regexp
	*ctScheme
}

// add files a scheme under its targets; of two groups that name the same the
// first wins.
func (c *ctConfig) add(s *ctScheme, targets []string) error {
	for _, t := range targets {
		p, ok := strings.CutPrefix(t, "re:")
		switch {
		case ok:
			if len(c.patterns) == maxPatterns || len(p) > 1024 {
				return fault(ErrLimit, "config_groups", -1, "patterns", fmt.Sprint("at most ", maxPatterns, " of 1024 bytes"), nil)
			}
			re, err := regexp.Compile(`^(?:` + p + `)`) // RE2: linear time, whatever the pattern
			if err != nil {
				return fault(ErrConfig, "config_groups", -1, "pattern", nil, p)
			}
			c.patterns = append(c.patterns, ctPattern{re, s})
		case strings.Contains(t, "."):
			if c.byName[t] == nil {
				c.byName[t] = s
			}
		default: // a class ("Linear"), or a module at the top
			if c.byName[t] == nil {
				c.byName[t] = s
			}
			if c.byClass[t] == nil {
				c.byClass[t] = s
			}
		}
	}
	return nil
}

// layout tells how sr x sc scales lie on a rows x cols weight: columns a group (0:
// the row) and rows a block.
func (s *ctScheme) layout(rows, cols, sr, sc int) (group, rowBlock int, err error) {
	switch {
	case len(s.block) == 2 && s.strategy == "block":
		bh, bw := s.block[0], s.block[1]
		if bh < 1 || bw < 1 || sr != (rows+bh-1)/bh || sc != (cols+bw-1)/bw {
			return 0, 0, fmt.Errorf("blocks of %v on [%d %d]", s.block, rows, cols)
		}
		return bw, bh, nil
	case sc == 1 && (sr == rows || sr == 1) && (s.group == 0 || s.group >= cols):
		return 0, max(1, (rows+sr-1)/max(1, sr)), nil
	case s.group > 0 && sr == rows && sc == (cols+s.group-1)/s.group:
		return s.group, 1, nil
	}
	if s.group == 0 && s.strategy == "" && sr == rows && sc > 0 && cols%sc == 0 { // no configuration: as the shapes say
		return cols / sc, 1, nil
	}
	want := fmt.Errorf("[%d 1] or [1]", rows)
	if s.group > 0 {
		want = fmt.Errorf("[%d %d] for groups of %d", rows, (cols+s.group-1)/s.group, s.group)
	}
	return 0, 0, want
}

// checkSparsity holds the declared sparsity against what the forms hold: the
// truth lies between the weights that are known to be zero and those that may be.
func (m *modules) checkSparsity() error {
	c, f := m.count, m.cfg.declared
	if f < 0 || c.sparse == 0 {
		return nil
	}
	const slack = 0.02 // of rounding, and of norms or biases being counted or not
	lo := float64(c.certain)/float64(c.weights) - slack
	hi := float64(c.certain+c.maybeZero)/float64(c.weights) + slack
	// Writers count the whole model or only what they compressed.
	lo2, hi2 := float64(c.certain)/float64(c.sparse)-slack, 1.0
	if (f >= lo && f <= hi) || (f >= lo2 && f <= hi2) {
		return nil
	}
	return inFile(fault(ErrSparse, "global_sparsity", -1, "declared sparsity", fmt.Sprintf("%.4f to %.4f by the file's weights", lo+slack, hi-slack), f), m.config)
}
