"""Language models: sparserun beside llama.cpp, same GGUF, one interleaved run.

Every round runs each contender once; medians of the rounds are printed. Both sides
predict greedily and ignore end tokens. llama.cpp's other types are requantised from
the same file by llama.cpp itself. Usage: bench/peers/models.sh [--threads 1,2] ..."""

import argparse, ctypes, json, os, platform, statistics, subprocess, sys, time

import numpy as np
import llama_cpp
from llama_cpp import llama_cpp as ll

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FTYPES = {"f16": ll.LLAMA_FTYPE_MOSTLY_F16, "q8_0": ll.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_0": ll.LLAMA_FTYPE_MOSTLY_Q4_0}


def quantised(model, kind):
    if kind == "q4_1":
        return model
    out = os.path.join(ROOT, "bench", "out", f"peer-{kind}.gguf")
    if not os.path.exists(out):
        p = ll.llama_model_quantize_default_params()
        p.ftype, p.allow_requantize, p.nthread = FTYPES[kind], True, os.cpu_count()
        if ll.llama_model_quantize(model.encode(), out.encode(), ctypes.byref(p)) != 0:
            sys.exit(f"llama.cpp cannot quantise to {kind}")
    return out


class Llama:
    """llama.cpp through its C API: no Python between tokens but one argmax."""

    def __init__(self, path, threads, label):
        self.label, self.threads = label, threads
        self.bytes = os.path.getsize(path)
        self.model = ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())
        p = ll.llama_context_default_params()
        p.n_ctx, p.n_batch, p.n_ubatch = 1024, 512, 512
        p.n_threads = p.n_threads_batch = threads
        self.ctx = ll.llama_init_from_model(self.model, p)
        self.vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self.model))

    def eval(self, ids):
        arr = (ll.llama_token * len(ids))(*ids)
        if ll.llama_decode(self.ctx, ll.llama_batch_get_one(arr, len(ids))) != 0:
            sys.exit("llama_decode failed")
        return int(np.ctypeslib.as_array(ll.llama_get_logits_ith(self.ctx, -1), (self.vocab,)).argmax())

    def clear(self):
        ll.llama_memory_clear(ll.llama_get_memory(self.ctx), True)

    def round(self, prompt, prefill, n):
        self.clear()
        t0 = time.perf_counter()
        self.eval(prefill)
        pre = len(prefill) / (time.perf_counter() - t0)
        self.clear()
        tok = self.eval(prompt)
        t0 = time.perf_counter()
        for _ in range(n):
            tok = self.eval([tok])
        return pre, n / (time.perf_counter() - t0)


class Sparserun:
    """One process a round: the binary as users run it."""

    def __init__(self, model, threads, label, args):
        self.model, self.threads, self.label, self.args = model, threads, label, args
        self.bytes = 0

    def run(self, prompt, n):
        cmd = [os.path.join(ROOT, "sparserun"), "run", self.model, "-p", prompt, "-n", str(n), "--ignore-eos", "--json", "-q", "-t", str(self.threads), "--backend", "cpu"] + self.args
        out = json.loads(subprocess.run(cmd, check=True, capture_output=True, text=True).stdout)
        return out.get("sparse") or out["dense"]

    def round(self, prompt, prefill, n):
        side = self.run("@" + prefill, 1)
        pre = side["prefill_tokens_per_s"]
        side = self.run(prompt, n + 1)
        self.bytes = side["weight_bytes"]
        return pre, side["decode_tokens_per_s"]


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--model", default=os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    a.add_argument("--pruned", default=os.path.join(ROOT, "demo", "smollm2-2of4.safetensors"))
    a.add_argument("--threads", default="1,2")
    a.add_argument("--rounds", type=int, default=5)
    a.add_argument("-n", type=int, default=64)
    a.add_argument("--out", help="JSON file to write")
    a = a.parse_args()
    os.makedirs(os.path.join(ROOT, "bench", "out"), exist_ok=True)
    ll.llama_backend_init()
    ll.llama_log_set(ctypes.cast(None, ll.llama_log_callback), None)
    text = "The quick brown fox jumps over the lazy dog. "
    prompt = "The capital of France is"
    prompt_ids = [504, 3575, 282, 4649, 314]  # the same text, see the golden file
    prefill_ids = [504] * 512
    prefill_file = os.path.join(ROOT, "bench", "out", "prefill.txt")
    open(prefill_file, "w").write((text * 64)[:2300])
    rows = []
    for threads in [int(t) for t in a.threads.split(",")]:
        peers = [Llama(quantised(a.model, k), threads, f"llama.cpp {k}") for k in ["f16", "q8_0", "q4_1", "q4_0"]]
        ours = [Sparserun(a.model, threads, f"sparserun dense {t}", ["--dtype", t, "--sparse", "off"]) for t in ["f16", "int8", "int4"]]
        ours += [Sparserun(a.pruned, threads, f"sparserun 2:4 {t}", ["--dtype", t, "--sparse", "nm24"]) for t in ["f16", "int8", "int4"]]
        got = {c.label: ([], []) for c in peers + ours}
        for r in range(a.rounds + 1):
            for c in peers + ours:
                pre, dec = c.round(prompt_ids if isinstance(c, Llama) else prompt, prefill_ids if isinstance(c, Llama) else prefill_file, a.n)
                if r:  # the first round warms files and pages
                    got[c.label][0].append(pre)
                    got[c.label][1].append(dec)
            print(f"threads {threads}: round {r} of {a.rounds}", file=sys.stderr)
        for c in peers + ours:
            pre, dec = (statistics.median(x) for x in got[c.label])
            rows.append(dict(label=c.label, threads=threads, bytes=c.bytes, prefill=pre, decode=dec))
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor())
    rival = {"f16": "llama.cpp f16", "int8": "llama.cpp q8_0", "int4": "llama.cpp q4_0"}
    by = {(r["label"], r["threads"]): r for r in rows}
    print(f"\n{cpu}, {time.strftime('%Y-%m-%d')}, SmolLM2-135M, llama-cpp-python {llama_cpp.__version__}; decode {a.n} tokens, prefill about 512; medians of {a.rounds} interleaved rounds\n")
    print("| | threads | weights MiB | prefill tokens/s | decode tokens/s | decode, of llama.cpp in the same type |")
    print("|---|---:|---:|---:|---:|---:|")
    for r in rows:
        kind = r["label"].split()[-1]
        rel = "-"
        if r["label"].startswith("sparserun"):
            rel = f'{r["decode"] / by[(rival[kind], r["threads"])]["decode"]:.2f}x {rival[kind].split()[1]}'
        print(f'| {r["label"]} | {r["threads"]} | {r["bytes"] / 2**20:.1f} | {r["prefill"]:.0f} | {r["decode"]:.1f} | {rel} |')
    if a.out:
        json.dump(dict(machine=cpu, rows=rows), open(a.out, "w"), indent=1)


main()
