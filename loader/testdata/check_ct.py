"""Proof that compressed-tensors 0.14.0.1 and transformers read what Save writes.

    python3 -m venv V && V/bin/pip install torch compressed-tensors==0.14.0.1 "transformers<5" psutil accelerate
    V/bin/python loader/testdata/check_ct.py        # from the project's root

Writes models with `go test`, then compares every parameter, bit for bit, with the same
weights saved dense in f32, twice: as ModelCompressor.decompress gives them (the linears)
and as transformers' from_pretrained does (everything). The second has limits of its own:
with transformers 4.57 the unstructured bitmask compressor fails on any folder, also on
those that compressed-tensors wrote itself ("Cannot copy out of meta tensor").
"""
import json, os, subprocess, sys, tempfile, warnings

import torch
from compressed_tensors.compressors import ModelCompressor
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import CompressedTensorsConfig

warnings.filterwarnings("ignore")
out = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()
subprocess.run(["go", "test", "-count=1", "-run", "TestWriteForPython", "./loader"], check=True, env={**os.environ, "SPARSERUN_CT_OUT": out})


def compare(model, want, only):
    got = model.state_dict()
    keys = [k for k in want if only(k)]
    differ = [k for k in keys if not torch.equal(got[k].to(torch.float32), want[k].to(got[k].dtype).to(torch.float32))]
    return f"{len(keys)} parameters {'equal' if not differ else 'DIFFER ' + str(differ[:3])}", bool(differ)


bad = 0
for name in sorted(n for n in os.listdir(out) if os.path.exists(os.path.join(out, n, "config.json"))):
    path = os.path.join(out, name)
    want = load_file(path + ".dense.safetensors")
    config = AutoConfig.from_pretrained(path)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=config.torch_dtype)
    ModelCompressor.from_pretrained(path).decompress(model_path=path, model=model)
    text, wrong = compare(model, want, lambda k: "_proj." in k)
    bad += wrong
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype="auto", quantization_config=CompressedTensorsConfig(run_compressed=False))
        whole, wrong = compare(model, want, lambda k: True)
        bad += wrong
    except NotImplementedError as e:
        whole = f"not readable there ({e})"
    print(f"{name:14} ModelCompressor: {text}; transformers: {whole}")

# The tokenizer.json made of SmolLM2's GGUF against the reference ids.
golden = json.load(open(os.path.join(os.environ.get("SPARSERUN_DATA", "../shared/data"), "smollm2/golden.json")))
tok = AutoTokenizer.from_pretrained(os.path.join(out, "tokenizer"))
wrong = [s["text"] for s in golden["tokenizer"]["strings"] if tok(s["text"], add_special_tokens=False)["input_ids"] != s["ids"]]
print(f"tokenizer: {len(golden['tokenizer']['strings'])} strings {'equal' if not wrong else 'DIFFER ' + str(wrong)}")
bad += bool(wrong)
print("ok" if not bad else f"{bad} differ")
sys.exit(bad != 0)
