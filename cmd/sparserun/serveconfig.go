package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// configuration is where flags of serve come from that are not on the command line: the
// environment (SPARSERUN_GRPC_ADDR for --grpc-addr), then a JSON file: an object of flags
// by their long names, and of models.
type configuration struct {
	ctx    *kong.Context
	path   string
	values map[string]any
	models []modelConfig
}

// modelConfig is one of the file's "models". What it leaves out is as the flags say.
type modelConfig struct {
	Name        string   `json:"name"`
	Path        string   `json:"path"`
	DType       string   `json:"dtype,omitempty"`
	Sparse      string   `json:"sparse,omitempty"`
	Context     int      `json:"context,omitempty"`
	ShadowDense *float64 `json:"shadow-dense,omitempty"`
}

// notConfigured are flags that make no sense in a file.
var notConfigured = []string{"help", "version", "config", "print-config", "json"}

const maxConfig = 1 << 20

func envName(flag string) string {
	return "SPARSERUN_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// openConfiguration finds the file that --config or SPARSERUN_CONFIG names and reads it.
func openConfiguration(ctx *kong.Context) (*configuration, error) {
	c := &configuration{ctx: ctx, path: os.Getenv(envName("config")), values: map[string]any{}}
	known := map[string]bool{}
	for _, f := range ctx.Flags() {
		known[f.Name] = true
		if p, ok := ctx.FlagValue(f).(string); ok && f.Name == "config" && p != "" {
			c.path = p
		}
	}
	if c.path == "" {
		return c, nil
	}
	st, err := os.Stat(c.path)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	if st.Size() > maxConfig {
		return nil, fmt.Errorf("--config: %s: want at most %d bytes, got %d", c.path, maxConfig, st.Size())
	}
	text, err := os.ReadFile(c.path)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	raw := map[string]json.RawMessage{}
	if err := strict(text, &raw); err != nil {
		return nil, fmt.Errorf("--config: %s: %w", c.path, err)
	}
	for key, v := range raw {
		switch {
		case key == "models":
			if err := strict(v, &c.models); err != nil {
				return nil, fmt.Errorf("--config: %s: models: %w", c.path, err)
			}
		case !known[key] || slices.Contains(notConfigured, key):
			return nil, fmt.Errorf("--config: %s: unknown key %q", c.path, key)
		default:
			d := json.NewDecoder(bytes.NewReader(v))
			d.UseNumber()
			var x any
			if err := d.Decode(&x); err != nil {
				return nil, fmt.Errorf("--config: %s: %s: %w", c.path, key, err)
			}
			if n, ok := x.(json.Number); ok {
				x = n.String()
			}
			c.values[key] = x
		}
	}
	return c, nil
}

func strict(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("want one value, got more at offset %d", d.InputOffset())
	}
	return nil
}

// Validate is kong.Resolver.
func (c *configuration) Validate(*kong.Application) error { return nil }

// Resolve is kong.Resolver.
func (c *configuration) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if slices.Contains(notConfigured, flag.Name) {
		return nil, nil
	}
	if v, ok := os.LookupEnv(envName(flag.Name)); ok {
		return v, nil
	}
	return c.values[flag.Name], nil
}

// print writes the configuration in force as a file that --config takes.
func (c *configuration) print(g *globals, models []modelConfig) error {
	out := map[string]any{}
	for _, f := range c.ctx.Flags() {
		if slices.Contains(notConfigured, f.Name) || f.Hidden {
			continue
		}
		switch v := f.Target.Interface().(type) {
		case time.Duration:
			out[f.Name] = v.String()
		case []string:
			if len(v) > 0 {
				out[f.Name] = v
			}
		case string:
			if v != "" {
				out[f.Name] = v
			}
		default:
			out[f.Name] = v
		}
	}
	delete(out, "name") // models have theirs
	out["models"] = models
	e := json.NewEncoder(g.stdout)
	e.SetIndent("", "  ")
	return e.Encode(out)
}
