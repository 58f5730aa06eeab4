"""Logits of every architecture and RoPE variant that loads, as transformers computes them.

    V/bin/pip install torch "transformers<5"
    V/bin/python runtime/cpu/testdata/architectures.py    # from the project's root

Writes architectures.json: for each model its config.json as transformers saves it, the names and
shapes of its tensors, a prompt, and logits at some positions, computed in float64. The weights are
not in the file: weight() below and architecture_test.go make the same numbers.
"""
import json
import os

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

GEOMETRY = dict(vocab_size=48, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, initializer_range=0.02)
PROMPT = [(7 * i * i + 3 * i + 5) % 48 for i in range(40)]
ROWS = [0, 9, 23, 39]


def weight(tensor, shape):
    """Element i of the tensor-th name in sorted order: a hash of both, -0.4 to 0.4; norms around one."""
    n = 1
    for d in shape:
        n *= d
    x = (torch.arange(n, dtype=torch.int64) + 1000003 * tensor) * 2654435761 % 2**32
    x = (x ^ (x >> 16)) * 0x45D9F3B % 2**32
    x ^= x >> 16
    w = (x.double() / 2**32 - 0.5) * 0.8
    return (w + 1 if len(shape) == 1 else w).reshape(shape).float()


def rope(**k):
    return dict(rope_scaling=k)


CASES = [
    ("llama, untied", LlamaForCausalLM, LlamaConfig(**GEOMETRY)),
    ("llama, tied, biases, head_dim 12", LlamaForCausalLM, LlamaConfig(**GEOMETRY, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=12, rope_theta=500000.0)),
    ("llama, rope linear", LlamaForCausalLM, LlamaConfig(**GEOMETRY, **rope(rope_type="linear", factor=4.0))),
    ("llama, rope dynamic", LlamaForCausalLM, LlamaConfig(**GEOMETRY, **rope(rope_type="dynamic", factor=4.0))),
    ("llama, rope llama3", LlamaForCausalLM, LlamaConfig(**GEOMETRY, **rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32))),
    ("llama, rope yarn", LlamaForCausalLM, LlamaConfig(**GEOMETRY, **rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=32))),
    ("llama, rope yarn, all its keys", LlamaForCausalLM, LlamaConfig(**GEOMETRY, **rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=4.0, beta_slow=0.5, attention_factor=1.25))),
    ("mistral, sliding window", MistralForCausalLM, MistralConfig(**GEOMETRY, sliding_window=8)),
    ("mistral, no window", MistralForCausalLM, MistralConfig(**GEOMETRY, sliding_window=None)),
    ("qwen2, tied", Qwen2ForCausalLM, Qwen2Config(**GEOMETRY, tie_word_embeddings=True, rope_theta=1e6)),
    ("qwen2, sliding window in all layers", Qwen2ForCausalLM, Qwen2Config(**GEOMETRY, use_sliding_window=True, sliding_window=8, max_window_layers=0)),
    ("qwen3, head_dim 16", Qwen3ForCausalLM, Qwen3Config(**GEOMETRY, head_dim=16, rope_theta=1e6)),
    ("qwen3, sliding window, biases", Qwen3ForCausalLM, Qwen3Config(**GEOMETRY, head_dim=16, attention_bias=True, use_sliding_window=True, sliding_window=8, max_window_layers=0)),
]

out = []
for name, cls, config in CASES:
    config._attn_implementation = "eager"
    model = cls(config)
    tied = ("lm_head.weight",) if config.tie_word_embeddings else ()
    state = {k: v for k, v in sorted(model.state_dict().items()) if k not in tied}
    new = {k: weight(i, list(v.shape)) for i, (k, v) in enumerate(state.items())}
    model.load_state_dict(new, strict=False)
    model = model.double().eval()
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT])).logits[0]
    text = json.loads(config.to_json_string())
    text.update(architectures=[cls.__name__])
    out.append(dict(name=name, config=text, tensors=[[k, list(v.shape)] for k, v in new.items()], prompt=PROMPT, rows=ROWS,
                    logits=[[round(x, 7) for x in logits[r].tolist()] for r in ROWS]))
    print(f"{name}: logits up to {logits.abs().max():.2f}")

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "architectures.json"), "w") as f:
    f.write(json.dumps(dict(transformers=transformers.__version__, models=out), separators=(",", ":")).replace('{"name"', '\n{"name"') + "\n")
