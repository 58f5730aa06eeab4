package loader

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// TestConfigs reads config.json as the usual checkpoints have it, and what Save
// makes of it reads back the same.
func TestConfigs(t *testing.T) {
	base := func(arch string) model.Config {
		return model.Config{Arch: arch, Vocab: 100, Hidden: 64, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 16, FFN: 96, Context: 4096, RMSEps: 1e-6, RopeTheta: 10000}
	}
	with := func(c model.Config, f func(*model.Config)) model.Config { f(&c); return c }
	geometry := `"vocab_size":100,"hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"intermediate_size":96,"max_position_embeddings":4096`
	for name, c := range map[string]struct {
		json string
		want model.Config
	}{
		"llama 3.2": {`"architectures":["LlamaForCausalLM"],"tie_word_embeddings":true,"rms_norm_eps":1e-05,"rope_theta":500000.0,"head_dim":16,"rope_scaling":{"factor":32.0,"high_freq_factor":4.0,"low_freq_factor":1.0,"original_max_position_embeddings":8192,"rope_type":"llama3"}`,
			with(base("llama"), func(c *model.Config) {
				c.Tied, c.RMSEps, c.RopeTheta = true, 1e-5, 500000
				c.RopeScaling = &model.RopeScaling{Type: "llama3", Factor: 32, HighFreqFactor: 4, LowFreqFactor: 1, OriginalContext: 8192}
			})},
		"old linear": {`"model_type":"llama","rope_scaling":{"type":"linear","factor":2}`,
			with(base("llama"), func(c *model.Config) { c.RopeScaling = &model.RopeScaling{Type: "linear", Factor: 2} })},
		"transformers 5": {`"architectures":["LlamaForCausalLM"],"rope_parameters":{"rope_type":"default","rope_theta":100000}`,
			with(base("llama"), func(c *model.Config) { c.RopeTheta = 100000 })},
		"mistral": {`"architectures":["MistralForCausalLM"],"sliding_window":128`,
			with(base("mistral"), func(c *model.Config) { c.Window = 128 })},
		"mistral 0.2": {`"architectures":["MistralForCausalLM"],"sliding_window":null`, base("mistral")},
		"qwen2":       {`"architectures":["Qwen2ForCausalLM"],"sliding_window":131072,"use_sliding_window":false,"max_window_layers":2`, base("qwen2")},
		"qwen2 full attention below the last layers": {`"architectures":["Qwen2ForCausalLM"],"sliding_window":128,"use_sliding_window":true,"max_window_layers":0`,
			with(base("qwen2"), func(c *model.Config) { c.Window = 128 })},
		"qwen2 by kinds of layers": {`"architectures":["Qwen2ForCausalLM"],"sliding_window":128,"use_sliding_window":true,"max_window_layers":0,"layer_types":["full_attention","full_attention"]`, base("qwen2")},
		"qwen3 by kinds of layers": {`"architectures":["Qwen3ForCausalLM"],"head_dim":16,"sliding_window":128,"use_sliding_window":true,"max_window_layers":2,"layer_types":["sliding_attention","sliding_attention"]`,
			with(base("qwen3"), func(c *model.Config) { c.Window, c.QKNorm = 128, true })},
		"qwen3": {`"architectures":["Qwen3ForCausalLM"],"head_dim":32,"rope_scaling":{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":1024,"attention_factor":1.5,"beta_fast":16}`,
			with(base("qwen3"), func(c *model.Config) {
				c.HeadDim, c.QKNorm = 32, true
				c.RopeScaling = &model.RopeScaling{Type: "yarn", Factor: 4, OriginalContext: 1024, AttentionFactor: 1.5, BetaFast: 16}
			})},
		"pruned layers": {`"architectures":["LlamaForCausalLM"],"head_dim":16,"sparserun_layer_heads":[4,2],"sparserun_layer_kv_heads":[2,1],"sparserun_layer_intermediate_size":[96,40]`,
			with(base("llama"), func(c *model.Config) {
				c.LayerHeads, c.LayerKVHeads, c.LayerFFN = []int{4, 2}, []int{2, 1}, []int{96, 40}
			})},
	} {
		o, err := parseObject([]byte("{" + geometry + "," + c.json + "}"))
		require.NoError(t, err, name)
		got, err := hfConfig(o)
		require.NoError(t, err, name)
		require.Equal(t, c.want, got, name)
		require.NoError(t, got.Check(), name)

		s := &saver{opts: SaveOptions{DType: sparse.F16}}
		b, err := json.Marshal(s.config(&model.Graph{Config: &got}))
		require.NoError(t, err)
		o, err = parseObject(b)
		require.NoError(t, err)
		again, err := hfConfig(o)
		require.NoError(t, err, name)
		require.Equal(t, got, again, name)
	}
}

// TestPrunedGeometry: layers of different width save and load.
func TestPrunedGeometry(t *testing.T) {
	config := strings.Replace(tinyConfig, `"vocab_size"`, `"head_dim":8,"sparserun_layer_heads":[1],"sparserun_layer_kv_heads":[1],"sparserun_layer_intermediate_size":[12],"vocab_size"`, 1)
	ts := tinySafe()
	cut := func(i int, shape ...int) {
		ts[i].shape = shape
		n := 4
		for _, d := range shape {
			n *= d
		}
		ts[i].data = ts[i].data[:n]
	}
	cut(2, 8, 16)
	cut(5, 16, 8)
	cut(7, 12, 16)
	cut(8, 12, 16)
	cut(9, 16, 12)
	g, err := Open(folder(t, map[string][]byte{fileConfig: []byte(config), fileWeights: safeFile(ts...)}))
	require.NoError(t, err)
	defer g.Close()
	for _, out := range []string{"m.safetensors", "m/"} {
		path := t.TempDir() + "/" + out
		require.NoError(t, Save(g, path, SaveOptions{}))
		b, err := Open(path)
		require.NoError(t, err)
		require.Equal(t, *g.Config, *b.Config)
		require.NoError(t, b.Close())
	}
}

// TestShards: an index's shards open as one checkpoint.
func TestShards(t *testing.T) {
	ts := tinySafe()
	index := `{"metadata":{"total_size":1},"weight_map":{`
	for i, x := range ts {
		if i > 0 {
			index += ","
		}
		index += `"` + x.name + `":"model-0000` + string(rune('1'+i%2)) + `-of-00002.safetensors"`
	}
	var a, b []st
	for i, x := range ts {
		if i%2 == 0 {
			a = append(a, x)
		} else {
			b = append(b, x)
		}
	}
	files := map[string][]byte{fileConfig: []byte(tinyConfig), fileIndex: []byte(index + "}}"),
		"model-00001-of-00002.safetensors": safeFile(a...), "model-00002-of-00002.safetensors": safeFile(b...)}
	g, err := Open(folder(t, files))
	require.NoError(t, err)
	defer g.Close()
	for _, w := range g.Weights {
		read(t, w.Data)
	}
	// A tensor that lies in both is an error (case 32).
	files["model-00002-of-00002.safetensors"] = safeFile(append(b, a[0])...)
	_, err = Open(folder(t, files))
	require.ErrorIs(t, err, ErrFormat)
}

// TestHubCache: a snapshot of Hugging Face's cache is links into blobs beside it;
// links out of the model's cache folder are still refused.
func TestHubCache(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "models--x--y")
	snap := filepath.Join(cache, "snapshots", "abc")
	require.NoError(t, os.MkdirAll(snap, 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(cache, "blobs"), 0o755))
	for name, b := range map[string][]byte{fileConfig: []byte(tinyConfig), fileWeights: safeFile(tinySafe()...)} {
		require.NoError(t, os.WriteFile(filepath.Join(cache, "blobs", "h"+name), b, 0o644))
		require.NoError(t, os.Symlink("../../blobs/h"+name, filepath.Join(snap, name)))
	}
	g, err := Open(snap)
	require.NoError(t, err)
	require.NoError(t, g.Close())
	outside := write(t, "w", safeFile(tinySafe()...))
	require.NoError(t, os.Remove(filepath.Join(snap, fileWeights)))
	require.NoError(t, os.Symlink(outside, filepath.Join(snap, fileWeights)))
	_, err = Open(snap)
	require.ErrorContains(t, err, "escapes")
}
