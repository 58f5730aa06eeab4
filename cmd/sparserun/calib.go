package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/tokenizer"
)

// calibFlags choose the data that calibrated methods see and how they use it.
type calibFlags struct {
	Calib        string  `help:"Text that calibrated methods look at (or .ids: token ids as little-endian uint32)." placeholder:"FILE"`
	CalibWindows int     `default:"64" help:"Sequences of calibration text (the papers use 128)."`
	CalibWindow  int     `default:"512" help:"Tokens of a sequence (the papers use 2048)."`
	CalibSeed    uint64  `default:"0" help:"0 takes the first windows, side by side; others draw them."`
	Damping      float64 `default:"0" help:"Ridge on the Gram matrix, times its mean diagonal (default 0.01)."`
	Journal      string  `help:"Folder for finished blocks: an interrupted run goes on from there." placeholder:"DIR"`
}

const methodHelp = "magnitude, lamp, random; with --calib: wanda, wanda-alpha, ria, dsnot, sparsegpt, alps, best; any with +resolve (kept weights solved again). " + tuneMethodHelp

// method turns a name into a prune.Method with its calibration data.
func (c *calibFlags) method(gr *model.Graph, name string, seed uint64) (prune.Method, error) {
	base, resolve := strings.CutSuffix(name, "+resolve")
	var calib prune.Calib
	if !calibratedMethod(base) && !slices.Contains([]string{"magnitude", "lamp", "random"}, base) {
		return nil, usagef("--method: want %s got %q", methodHelp, name)
	}
	if calibratedMethod(name) {
		if c.Calib == "" {
			return nil, usagef("--method %s needs --calib FILE", name)
		}
		var err error
		if calib, err = c.windows(gr); err != nil {
			return nil, err
		}
	}
	var m prune.Method
	switch base {
	case "magnitude":
		m = prune.Magnitude{}
	case "lamp":
		m = prune.LAMP{}
	case "random":
		m = prune.Random{Seed: seed}
	case "wanda":
		m = prune.Wanda{Calib: calib}
	case "wanda-alpha":
		m = prune.Wanda{Calib: calib, Variant: true}
	case "ria":
		m = prune.RIA{Calib: calib}
	case "dsnot":
		m = prune.DSnoT{Calib: calib}
	case "sparsegpt":
		m = prune.SparseGPT{Calib: calib, Damping: c.Damping}
	case "alps":
		m = prune.ALPS{Calib: calib, Damping: c.Damping}
	case "best":
		m = prune.Best{Calib: calib, Damping: c.Damping}
	}
	if resolve {
		m = prune.Resolved{Of: m, Calib: calib, Damping: c.Damping}
	}
	return m, nil
}

// maxCalib bounds the calibration file: more text than any run looks at.
const maxCalib = 1 << 30

func (c *calibFlags) windows(gr *model.Graph) (prune.Calib, error) {
	if gr.Config == nil {
		return prune.Calib{}, fmt.Errorf("%s: calibrated methods need a language model", gr.Source.Path)
	}
	st, err := os.Stat(c.Calib)
	if err != nil {
		return prune.Calib{}, err
	}
	if st.Size() > maxCalib {
		return prune.Calib{}, fmt.Errorf("%s: want at most %d bytes of calibration text, got %d", c.Calib, maxCalib, st.Size())
	}
	b, err := os.ReadFile(c.Calib)
	if err != nil {
		return prune.Calib{}, err
	}
	var ids []int32
	switch {
	case strings.HasSuffix(c.Calib, ".ids"):
		if len(b)%4 != 0 {
			return prune.Calib{}, fmt.Errorf("%s: %d bytes are no whole number of uint32 ids", c.Calib, len(b))
		}
		for i := 0; i < len(b); i += 4 {
			ids = append(ids, int32(uint32(b[i])|uint32(b[i+1])<<8|uint32(b[i+2])<<16|uint32(b[i+3])<<24))
		}
	case gr.Tokenizer == nil:
		return prune.Calib{}, fmt.Errorf("%s: no tokenizer in the model for %s", gr.Source.Path, c.Calib)
	default:
		ids = gr.Tokenizer.Encode(string(b), tokenizer.EncodeOptions{BOS: tokenizer.Never, EOS: tokenizer.Never})
	}
	calib, err := prune.CalibWindows(ids, c.CalibWindow, c.CalibWindows, c.CalibSeed)
	if err != nil {
		return calib, fmt.Errorf("%s: %w", c.Calib, err)
	}
	sum := sha256.Sum256(b)
	calib.TextSHA256 = hex.EncodeToString(sum[:])
	return calib, nil
}
