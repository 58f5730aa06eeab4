package tokenizer

import (
	"fmt"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// The four sections of a tokenizer.json around its model. Each is an object
// with a "type"; "Sequence" holds a list of others.

func unsupported(n node) error {
	return fmt.Errorf("type %.40q: %w", n.str("type"), ErrUnsupported)
}

// each calls read for every element of n's list.
func each(n node, key string, read func(node) error) error {
	for _, v := range n.list(key) {
		m, ok := v.(node)
		if !ok {
			return fmt.Errorf("%s: want objects: %w", key, ErrFormat)
		}
		if err := read(m); err != nil {
			return err
		}
	}
	return nil
}

// literalPattern reads {"String": "..."}.
func literalPattern(n node) (string, error) {
	p := n.node("pattern")
	if s := p.str("String"); s != "" {
		return s, nil
	}
	return "", fmt.Errorf("%s: pattern %.200q: %w", n.str("type"), p.str("Regex"), ErrUnsupported)
}

// growth bounds what the steps of one section do to the length of a text.
type growth struct{ steps, times int }

// replaces counts a step that puts with in the place of old.
func (g *growth) replaces(old, with string) error {
	g.steps++
	g.times = max(g.times, 1) * max(1, (len(with)+len(old)-1)/len(old))
	if g.steps > maxSteps || g.times > maxGrowth {
		return fmt.Errorf("want at most %d steps and %d-fold growth, got %d and %d: %w", maxSteps, maxGrowth, g.steps, g.times, ErrFormat)
	}
	return nil
}

// normReader collects the steps of a normaliser.
type normReader struct {
	list []normalizer
	growth
}

func (r *normReader) read(n node) error {
	if n == nil {
		return nil
	}
	old, with := " ", " "
	var f normalizer
	switch n.str("type") {
	case "Sequence":
		return each(n, "normalizers", r.read)
	case "NFC":
		f = normalForm(norm.NFC)
	case "NFD":
		f = normalForm(norm.NFD)
	case "NFKC":
		f = normalForm(norm.NFKC)
	case "NFKD":
		f = normalForm(norm.NFKD)
	case "Lowercase":
		f = lowercase
	case "Strip":
		f = stripSpaces(n.bool("strip_left", true), n.bool("strip_right", true))
	case "Prepend":
		with = n.str("prepend")
		f = prepend(with)
	case "Replace":
		var err error
		if old, err = literalPattern(n); err != nil {
			return err
		}
		with = n.str("content")
		f = replaceAll(old, with)
	default:
		return unsupported(n)
	}
	r.list = append(r.list, f)
	return r.replaces(old, with)
}

// preReader collects the steps of a pre-tokeniser.
type preReader struct {
	steps     []step
	byteLevel bool
	growth
}

func (p *preReader) read(n node) error {
	if n == nil {
		return nil
	}
	if p.byteLevel {
		return fmt.Errorf("%.40q after ByteLevel: %w", n.str("type"), ErrUnsupported)
	}
	with := " " // in the place of a space
	switch n.str("type") {
	case "Sequence":
		return each(n, "pretokenizers", p.read)
	case "ByteLevel":
		p.byteLevel = true
		if n.bool("add_prefix_space", true) {
			p.steps = append(p.steps, prefixSpace)
		}
		if n.bool("use_regex", true) {
			p.steps = append(p.steps, byPattern(gpt2))
		}
	case "Split":
		if err := p.readSplit(n); err != nil {
			return err
		}
	case "Digits":
		most := 0
		if n.bool("individual_digits", false) {
			most = 1
		}
		p.steps = append(p.steps, isolate(unicode.IsNumber, most))
	case "Punctuation":
		if b := n.str("behavior"); b != "" && b != "Isolated" {
			return fmt.Errorf("type Punctuation: behavior %.40q: %w", b, ErrUnsupported)
		}
		p.steps = append(p.steps, isolate(isPunct, 1))
	case "Whitespace":
		p.steps = append(p.steps, words)
	case "WhitespaceSplit":
		p.steps = append(p.steps, fields)
	case "Metaspace":
		mark, prefix, err := readMetaspace(n)
		if err != nil {
			return err
		}
		with = mark
		p.steps = append(p.steps, metaspace(mark, prefix, n.bool("split", true)))
	default:
		return unsupported(n)
	}
	return p.replaces(" ", with)
}

func (p *preReader) readSplit(n node) error {
	behaviour, invert := n.str("behavior"), n.bool("invert", false)
	if !behaviours[behaviour] {
		return fmt.Errorf("type Split: behavior %.40q: %w", behaviour, ErrFormat)
	}
	if regex := n.node("pattern").str("Regex"); regex != "" {
		// The known expressions cover every text, so keeping the matches and
		// dropping what is between is the same as isolating them.
		scan, ok := patterns[regex]
		if !ok || !(behaviour == "Isolated" && !invert || behaviour == "Removed" && invert) {
			return fmt.Errorf("type Split: %s (invert %v) by regex %.400q: %w", behaviour, invert, regex, ErrUnsupported)
		}
		p.steps = append(p.steps, byPattern(scan))
		return nil
	}
	mark, err := literalPattern(n)
	if err != nil {
		return err
	}
	if invert {
		return fmt.Errorf("type Split: inverted %.40q: %w", mark, ErrUnsupported)
	}
	p.steps = append(p.steps, literal(mark, behaviour))
	return nil
}

// readMetaspace reads the mark and when it is prefixed.
func readMetaspace(n node) (mark, prefix string, err error) {
	if mark = n.str("replacement"); mark == "" {
		return "", "", fmt.Errorf("type Metaspace: want a replacement: %w", ErrFormat)
	}
	switch prefix = n.str("prepend_scheme"); prefix {
	case "always", "first", "never":
	case "": // files before the scheme had a name
		if prefix = "never"; n.bool("add_prefix_space", true) {
			prefix = "always"
		}
	default:
		return "", "", fmt.Errorf("type Metaspace: prepend_scheme %.40q: %w", prefix, ErrFormat)
	}
	return mark, prefix, nil
}

// decoderReader collects the parts of a decoder.
type decoderReader struct {
	decoding
	bytes bool // <0xHH> tokens are bytes
	fused bool // what follows sees the whole text, not single tokens
	growth
}

func (d *decoderReader) read(n node) error {
	if n == nil {
		return nil
	}
	switch n.str("type") {
	case "Sequence":
		return each(n, "decoders", d.read)
	case "ByteLevel":
		d.byteLevel = true
	case "Fuse":
		d.fused = true
	case "ByteFallback":
		d.bytes = true
	case "Metaspace":
		mark, prefix, err := readMetaspace(n)
		if err != nil {
			return err
		}
		if err := d.replaces(mark, " "); err != nil {
			return err
		}
		d.replace = append(d.replace, [2]string{mark, " "})
		if prefix != "never" {
			d.strip, d.stripMost = " ", 1
		}
	case "Replace":
		old, err := literalPattern(n)
		if err != nil {
			return err
		}
		if err := d.replaces(old, n.str("content")); err != nil {
			return err
		}
		d.replace = append(d.replace, [2]string{old, n.str("content")})
	case "Strip":
		if !d.fused || n.int("stop") != 0 || n.int("start") < 0 || d.strip != "" {
			return fmt.Errorf("type Strip other than once, at the start, after Fuse: %w", ErrUnsupported)
		}
		d.strip, d.stripMost = n.str("content"), n.int("start")
		if d.strip == "" {
			d.stripMost = 0
		}
	default:
		return unsupported(n)
	}
	return nil
}

// readPost finds what the post-processor puts around a text.
func (t *Tokenizer) readPost(n node) error {
	if n == nil {
		return nil
	}
	switch n.str("type") {
	case "Sequence":
		return each(n, "processors", t.readPost)
	case "ByteLevel": // offsets only
		return nil
	case "TemplateProcessing":
		return t.readTemplate(n)
	}
	return unsupported(n)
}

func (t *Tokenizer) readTemplate(n node) error {
	var before, after []int32
	inside := false
	err := each(n, "single", func(part node) error {
		if part.node("Sequence") != nil {
			if inside {
				return fmt.Errorf("type TemplateProcessing: want the text once: %w", ErrFormat)
			}
			inside = true
			return nil
		}
		name := part.node("SpecialToken").str("id")
		ids := n.node("special_tokens").node(name).list("ids")
		if len(ids) == 0 {
			return fmt.Errorf("type TemplateProcessing: %.40q: want its ids: %w", name, ErrFormat)
		}
		for _, v := range ids {
			f, ok := v.(float64)
			if !ok || f < 0 || f >= float64(len(t.tokens)) || f != float64(int(f)) {
				return fmt.Errorf("type TemplateProcessing: %.40q: want ids below %d, got %v: %w", name, len(t.tokens), v, ErrFormat)
			}
			if inside {
				after = append(after, int32(f))
			} else {
				before = append(before, int32(f))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !inside {
		return fmt.Errorf("type TemplateProcessing: want the text in it: %w", ErrFormat)
	}
	t.prefix = append(before, t.prefix...)
	t.suffix = append(t.suffix, after...)
	return nil
}
