package main

import (
	"path/filepath"
	"slices"
	"strings"
)

// calibratedMethod says whether a method looks at the text of --calib.
func calibratedMethod(name string) bool {
	base, resolve := strings.CutSuffix(name, "+resolve")
	return resolve || slices.Contains([]string{"wanda", "wanda-alpha", "ria", "dsnot", "sparsegpt", "alps", "best"}, base)
}

// rules of the flags that are not looked at by everything prune does.
func (c *pruneCmd) rules() []flagRule {
	parts, cut, coded, labels := c.structured(), c.Structured != 0 || c.Blocks != 0, c.Codebook != 0, c.tunes()
	images := c.Mnist != "" || c.Cifar != ""
	level := c.Sparsity != 0 || c.Pattern != ""
	weights := !parts && !cut && (!coded || level) // single weights go, not parts
	calib := calibratedMethod(c.Method) && weights && !labels
	damped := parts || calib && (strings.HasSuffix(c.Method, "+resolve") || slices.Contains([]string{"sparsegpt", "alps", "best"}, c.Method))
	gate := c.MaxLoss != 0 && !labels && !cut && !coded
	return []flagRule{
		{"method include exclude keep-zeros", weights, "--sparsity or --pattern"},
		{"scope", cut || weights && c.Pattern == "", "--sparsity or --structured"},
		{"format dtype", !cut && !coded, "a file that is neither of --structured, --blocks nor --codebook"},
		{"group", c.Quant == "int4", "--quant int4 (int8 has a scale per row)"},
		{"asymmetric nearest", c.Quant != "", "--quant"},
		{"quant-embed", !labels && !cut && !coded, "a language model that is not trained"},
		{"allocate permute", calib, "a calibrated --method"},
		{"calib calib-windows calib-window calib-seed max-memory", calib || parts, "a calibrated --method, --heads, --channels or --layers"},
		{"damping", damped, "--method sparsegpt, alps, best or +resolve, --heads, --channels or --layers"},
		{"journal", calib, "a calibrated --method"},
		{"score", parts || cut, "--heads, --channels, --layers, --structured or --blocks"},
		{"no-repair", parts, "--heads, --channels or --layers"},
		{"of round-to norms leave", c.Structured != 0, "--structured"},
		{"max-loss", weights && (labels || !coded) || parts, "--sparsity or --pattern (of a codebook with data too), --heads, --channels or --layers"},
		{"eval-text", gate || c.Text != "", "--max-loss or --text"},
		{"eval-window eval-windows", gate, "--max-loss without training"},
		{"pixel-scale mean std", images, "--mnist or --cifar"},
		{"augment", images, "--mnist or --cifar"},
		{"text-window", c.Text != "", "--text"},
		{"finetune rate batch distill patience", labels, "--mnist DIR, --cifar FILE, --data FILE or --text FILE"},
		{"schedule rounds splice", labels && weights, "--mnist, --cifar, --data or --text, with --sparsity or --pattern"},
		{"share", coded && labels, "--codebook with --mnist, --cifar or --data"},
	}
}

// savable refuses the name of another format: a language model becomes safetensors, a network ONNX.
func savable(path string, network bool) error {
	ext := strings.ToLower(filepath.Ext(path))
	switch ext {
	case ".gguf", ".srcb", ".pt", ".pth", ".bin":
	case ".onnx":
		if network {
			return nil
		}
	case ".safetensors":
		if !network {
			return nil
		}
	default:
		return nil
	}
	if network {
		return usagef("-o %s: a network is written as ONNX: want FILE.onnx", path)
	}
	return usagef("-o %s: a language model is written as safetensors: want FILE.safetensors or a folder", path)
}
