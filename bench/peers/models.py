"""Decode and prefill of one model: sparserun beside llama.cpp, in alternating rounds.

    python bench/peers/models.py --sparserun ./sparserun --gguf model.gguf --pruned pruned.safetensors

llama.cpp (llama-cpp-python) runs the GGUF requantised to Q8_0 and Q4_0, with the
same threads, prompt length and number of tokens. Medians of the rounds.
"""
import argparse
import ctypes
import json
import os
import statistics
import subprocess
import tempfile
import time

ap = argparse.ArgumentParser()
ap.add_argument("--sparserun", required=True)
ap.add_argument("--gguf", required=True)
ap.add_argument("--pruned", default="", help="2:4 pruned file of the same model")
ap.add_argument("--threads", type=int, default=2)
ap.add_argument("--rounds", type=int, default=3)
ap.add_argument("--tokens", type=int, default=64)
ap.add_argument("--prefill", type=int, default=512)
ap.add_argument("--json", default="")
args = ap.parse_args()

import llama_cpp as L  # noqa: E402

quiet = L.llama_log_callback(lambda *a: None)
L.llama_log_set(quiet, ctypes.c_void_p(0))
L.llama_backend_init()


class Llama:
    def __init__(self, name, ftype, folder):
        self.name, self.pre, self.dec = "llama.cpp " + name, [], []
        path = os.path.join(folder, name + ".gguf").encode()
        p = L.llama_model_quantize_default_params()
        p.ftype, p.allow_requantize, p.nthread = ftype, True, args.threads
        if L.llama_model_quantize(args.gguf.encode(), path, ctypes.byref(p)) != 0:
            raise OSError("llama_model_quantize failed")
        self.bytes = os.path.getsize(path)
        mp = L.llama_model_default_params()
        self.model = L.llama_model_load_from_file(path, mp)
        cp = L.llama_context_default_params()
        cp.n_ctx, cp.n_batch, cp.n_ubatch = args.prefill + args.tokens + 8, args.prefill, args.prefill
        cp.n_threads = cp.n_threads_batch = args.threads
        self.ctx = L.llama_init_from_model(self.model, cp)

    def decode(self, toks):
        a = (L.llama_token * len(toks))(*toks)
        if L.llama_decode(self.ctx, L.llama_batch_get_one(a, len(toks))) != 0:
            raise OSError("llama_decode failed")
        L.llama_synchronize(self.ctx)

    def round(self):
        mem = L.llama_get_memory(self.ctx)
        L.llama_memory_clear(mem, True)
        t = time.perf_counter()
        self.decode([100 + i % 1000 for i in range(args.prefill)])
        self.pre.append(args.prefill / (time.perf_counter() - t))
        L.llama_memory_clear(mem, True)
        self.decode([1, 2, 3, 4])
        n = L.llama_vocab_n_tokens(L.llama_model_get_vocab(self.model))
        t = time.perf_counter()
        tok = 5
        for _ in range(args.tokens):
            self.decode([tok])
            logits = L.llama_get_logits(self.ctx)
            tok = int(logits[0] > logits[1]) + 5  # the choice of a token is not what is timed
        self.dec.append(args.tokens / (time.perf_counter() - t))
        assert n > 0


class Sparserun:
    def __init__(self, name, model, dtype, layout):
        self.name, self.pre, self.dec, self.bytes = "sparserun " + name, [], [], 0
        self.cmd = [args.sparserun, "run", model, "--dtype", dtype, "--sparse", layout, "-t", str(args.threads), "-n", str(args.tokens),
                    "--context", str(args.prefill + args.tokens + 64), "--json", "-q"]

    def round(self):
        # Numbers are one token a digit: near enough to the length that is wanted.
        long = "Count: " + " ".join(str(i % 10) for i in range(args.prefill // 2 - 2))
        for prompt, key, out in ((long, "prefill_tokens_per_s", self.pre), ("Once upon a time there was a", "decode_tokens_per_s", self.dec)):
            j = json.loads(subprocess.run(self.cmd + ["-p", prompt], check=True, capture_output=True, text=True).stdout)
            r = j.get("sparse") or j["dense"]
            out.append(r[key])
            self.bytes = r["weight_bytes"]


def main():
    with tempfile.TemporaryDirectory() as folder:
        es = [Llama("Q8_0", 7, folder), Llama("Q4_0", 2, folder)]
        for d in ("int8", "f16", "int4"):
            es.append(Sparserun("dense " + d, args.gguf, d, "off"))
            if args.pruned:
                es.append(Sparserun("2:4 " + d, args.pruned, d, "nm24"))
        for _ in range(args.rounds):
            for e in es:
                e.round()
    print(f"threads {args.threads}, prefill {args.prefill} tokens, decode {args.tokens}")
    print("| model | MB | decode tokens/s | prefill tokens/s | decode vs Q8_0 | vs Q4_0 |\n|---|---|---|---|---|---|")
    m = statistics.median
    for e in es:
        print(f"| {e.name} | {e.bytes / 1e6:.0f} | {m(e.dec):.0f} | {m(e.pre):.0f} | {m(e.dec) / m(es[0].dec):.2f} | {m(e.dec) / m(es[1].dec):.2f} |")
    if args.json:
        with open(args.json, "w") as f:
            json.dump([dict(name=e.name, bytes=e.bytes, decode=e.dec, prefill=e.pre) for e in es], f, indent=1)


main()
