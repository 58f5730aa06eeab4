"""One table of linear layers y = x W^T: sparserun beside its peers.

Every entry owns enough copies of its weight to outgrow the caches (--cold MiB)
and each call uses the next copy. Rounds go round robin over all entries, so that
whatever disturbs the machine disturbs all; medians are reported, and the best
round beside them. A peer that is not installed is named as such.
"""
import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time
import warnings

ap = argparse.ArgumentParser()
ap.add_argument("--kernelbench", required=True)
ap.add_argument("--shapes", default="4096x4096,11008x4096,2048x2048,768x3072")
ap.add_argument("--batch", default="1,128")
ap.add_argument("--threads", type=int, default=1)
ap.add_argument("--rounds", type=int, default=9)
ap.add_argument("--ms", type=float, default=15, help="least time of a round of one entry")
ap.add_argument("--cold", type=int, default=160, help="MiB of weights per entry")
ap.add_argument("--only", default="", help="regular expression on entries")
ap.add_argument("--json", default="", help="file to write")
args = ap.parse_args()
warnings.simplefilter("ignore")
for v in ("OPENBLAS", "OMP", "MKL"):
    os.environ[v + "_NUM_THREADS"] = str(args.threads)

import numpy as np  # noqa: E402  (after the thread counts)


class Entry:
    """A way to multiply. calls(n) returns functions, one per copy of the weight."""

    def __init__(self, name, nbytes, copies):
        self.name, self.bytes, self.copies, self.at, self.ns = name, nbytes, copies, 0, []

    def time(self, ms):
        n, start = 0, time.perf_counter_ns()
        while n < 2 or time.perf_counter_ns() - start < ms * 1e6:
            self.copies[self.at % len(self.copies)]()
            self.at += 1
            n += 1
        return (time.perf_counter_ns() - start) / n


class Ours:
    """sparserun's kernels, over a pipe."""

    def __init__(self):
        self.p = subprocess.Popen([args.kernelbench], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **r):
        self.p.stdin.write(json.dumps(r) + "\n")
        self.p.stdin.flush()
        line = self.p.stdout.readline()
        if not line:
            sys.exit("kernelbench ended")
        return json.loads(line)

    def entries(self, rows, cols, batch, names):
        a = self.ask(cmd="open", rows=rows, cols=cols, batch=batch, threads=args.threads, kernels=names, cold_mib=args.cold)
        self.isa = a["isa"]
        out = []
        for i, n in enumerate(names):
            e = Entry("sparserun " + n, a["bytes"][i], [None])
            e.time = lambda ms, i=i: self.ask(cmd="time", kernel=i, ms=ms)["ns"]
            out.append(e)
        return out


def copies_of(nbytes):
    return max(1, -(-(args.cold << 20) // nbytes))


def masked(w, sparsity, rng):
    return w * (rng.random(w.shape, dtype=np.float32) >= sparsity)


def numpy_entries(w, x):
    ws = [w.copy() for _ in range(copies_of(w.nbytes))]
    if x.shape[0] == 1:
        v = x[0]
        return [Entry("numpy OpenBLAS f32", w.nbytes, [lambda m=m: m @ v for m in ws])]
    xt = np.ascontiguousarray(x.T)
    out = np.empty((x.shape[0], w.shape[0]), np.float32)
    outT = np.empty((w.shape[0], x.shape[0]), np.float32)
    return [Entry("numpy OpenBLAS f32 (X W^T)", w.nbytes, [lambda m=m: np.matmul(x, m.T, out=out) for m in ws]),
            Entry("numpy OpenBLAS f32 (W X)", w.nbytes, [lambda m=m: np.matmul(m, xt, out=outT) for m in ws])]


def scipy_entries(w, x, sparsities, rng):
    import scipy.sparse as sp
    out = []
    for s in sparsities:
        m = sp.csr_matrix(masked(w, s, rng))
        nb = m.data.nbytes + m.indices.nbytes + m.indptr.nbytes
        xs = x[0] if x.shape[0] == 1 else np.ascontiguousarray(x.T)
        out.append(Entry(f"scipy csr f32 {s}", nb, [lambda m=c: m @ xs for c in [m.copy() for _ in range(copies_of(nb))]]))
    return out


def ort_entries(w, x):
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper
    so = ort.SessionOptions()
    so.intra_op_num_threads = args.threads
    so.log_severity_level = 3

    def model(nodes, inits):
        g = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [x.shape[0], w.shape[0]])], inits)
        m = helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)])
        m.ir_version = 8
        return m.SerializeToString()

    f32 = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [numpy_helper.from_array(np.ascontiguousarray(w.T), "w")])
    scale = np.float32(np.abs(w).max() / 127)
    q = np.clip(np.round(w.T / scale), -127, 127).astype(np.int8)
    i8 = model([helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
                helper.make_node("MatMulInteger", ["xq", "wq", "xz", "wz"], ["i"]),
                helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
                helper.make_node("Mul", ["xs", "ws"], ["s"]), helper.make_node("Mul", ["f", "s"], ["y"])],
               [numpy_helper.from_array(np.ascontiguousarray(q), "wq"), numpy_helper.from_array(np.int8(0), "wz"), numpy_helper.from_array(scale, "ws")])
    out = []
    for name, m, nb in (("onnxruntime f32", f32, w.nbytes), ("onnxruntime int8 dynamic", i8, w.size)):
        ss = [ort.InferenceSession(m, so, providers=["CPUExecutionProvider"]) for _ in range(copies_of(nb))]
        out.append(Entry(name, nb, [lambda s=s: s.run(None, {"x": x}) for s in ss]))
    return out


def torch_entries(w, x):
    import torch
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    xt = torch.from_numpy(x)
    out = []
    for name, t, nb in (("torch f32", torch.float32, w.nbytes), ("torch f16", torch.float16, w.nbytes // 2), ("torch bf16", torch.bfloat16, w.nbytes // 2)):
        ws = [torch.from_numpy(w).to(t, copy=True) for _ in range(copies_of(nb))]
        xx = xt.to(t)
        out.append(Entry(name, nb, [lambda m=m, xx=xx: torch.nn.functional.linear(xx, m) for m in ws]))
    lin = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    lin.weight.copy_(torch.from_numpy(w))
    try:
        qs = [torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(lin), {torch.nn.Linear}, dtype=torch.qint8) for _ in range(copies_of(w.size))]
        out.append(Entry("torch int8 dynamic", w.size, [lambda m=m: m(xt) for m in qs]))
    except Exception as e:  # removed or without an engine in some builds
        print("# torch int8 dynamic: not measured:", e, file=sys.stderr)
    return out


def main():
    from ggml import ggml_entries
    ours, rows_out = Ours(), []
    rng = np.random.default_rng(1)
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor())
    flags = next((l for l in open("/proc/cpuinfo") if l.startswith("flags")), "")
    has = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx512_vbmi") if f" {f}" in flags]
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    missing = {}
    for shape in args.shapes.split(","):
        r, c = map(int, shape.split("x"))
        for batch in map(int, args.batch.split(",")):
            w = rng.standard_normal((r, c), dtype=np.float32) / 64
            x = rng.standard_normal((batch, c), dtype=np.float32)
            few = batch <= 8
            names = (["dense/f32/0", "dense/f16/0", "dense/int8/0", "dense/int4/0", "nm24/f16/0.5", "nm24/int8/0.5", "nm24/int4/0.5",
                      "csr/f16/0.8", "csr/f16/0.9", "csr/f16/0.95", "csr/int8/0.8", "csr/int8/0.9", "csr/int8/0.95"] if few else
                     ["dense/f32/0", "dense/f16/0", "dense/int8/0", "nm24/f32/0.5", "nm24/f16/0.5", "nm24/int8/0.5",
                      "csr/f32/0.5", "csr/f32/0.8", "csr/f32/0.9", "csr/f32/0.95"])
            es = ours.entries(r, c, batch, [n for n in names if re.search(args.only, "sparserun " + n)])
            peers = {"numpy": lambda: numpy_entries(w, x), "scipy": lambda: scipy_entries(w, x, (0.8, 0.9, 0.95), rng),
                     "onnxruntime": lambda: ort_entries(w, x), "torch": lambda: torch_entries(w, x),
                     "ggml": lambda: ggml_entries(w, x, args.threads, copies_of, Entry)}
            for name, f in peers.items():
                try:
                    es += [e for e in f() if re.search(args.only, e.name)]
                except (ImportError, OSError) as e:
                    missing[name] = str(e)
            for e in es:
                e.time(0)
            for _ in range(args.rounds):
                for e in es:
                    e.ns.append(e.time(args.ms))
            base = next((np.median(e.ns) for e in es if e.name.startswith("numpy")), None)
            print(f"\n## {r} x {c}, batch {batch}, {args.threads} thread(s); {cpu} ({', '.join(has)}; sparserun {ours.isa}), {date}")
            print("| entry | us | best us | GB/s | GFLOP/s | vs OpenBLAS f32 |\n|---|---|---|---|---|---|")
            for e in sorted(es, key=lambda e: np.median(e.ns)):
                m, b = float(np.median(e.ns)), float(np.min(e.ns))
                print(f"| {e.name} | {m / 1e3:.0f} | {b / 1e3:.0f} | {e.bytes / m:.1f} | {2 * r * c * batch / m:.0f} | {base / m if base else 0:.2f} |")
                rows_out.append(dict(rows=r, cols=c, batch=batch, threads=args.threads, entry=e.name, ns=m, best_ns=b, bytes=e.bytes))
            sys.stdout.flush()
            del es
    for name, why in missing.items():
        print(f"\n{name}: not measured ({why})")
    if args.json:
        with open(args.json, "w") as f:
            json.dump(dict(machine=cpu, flags=has, isa=ours.isa, date=date, rows=rows_out), f, indent=1)


main()
