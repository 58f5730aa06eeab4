"""The libraries that kernels.py sets beside sparserun: a function each, which takes
the weight and, by batch, the activations, makes copies of the weight enough to
outgrow the caches once for all batches, and returns entries by batch."""
import glob
import json
import os
import subprocess
import sys
import time

import numpy as np


class Entry:
    """A way to multiply: one function for each copy of the weight, taken in turn."""

    def __init__(self, name, nbytes, copies):
        self.name, self.bytes, self.copies, self.at, self.ns = name, nbytes, copies, 0, []

    def time(self, ms):
        n, start = 0, time.perf_counter_ns()
        while n < 1 or time.perf_counter_ns() - start < ms * 1e6:
            self.copies[self.at % len(self.copies)]()
            self.at += 1
            n += 1
        return (time.perf_counter_ns() - start) / n


def settle(most=1.0):
    """Waits until the other threads of this process sleep: OpenBLAS's run idle for 2**28 cycles
    (0.1 s) after a product, those of OpenMP and onnxruntime for some ms, on cores that the next
    entry wants, whose two threads then share one."""
    end, quiet = time.perf_counter() + most, 0
    while quiet < 2 and time.perf_counter() < end:
        time.sleep(0.002)
        quiet = 0 if running_threads() > 1 else quiet + 1


def running_threads():
    n = 0
    for task in glob.glob("/proc/self/task/*/stat"):
        try:
            with open(task) as f:
                n += f.read().rpartition(")")[2].split()[0] == "R"
        except OSError:  # it has ended
            pass
    return n


class Piped:
    """A program that times kernels itself, asked over a pipe, one JSON line each."""

    def __init__(self, *command):
        self.p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **r):
        self.p.stdin.write(json.dumps(r) + "\n")
        self.p.stdin.flush()
        line = self.p.stdout.readline()
        if not line:
            sys.exit(f"{self.p.args[0]} ended")
        return json.loads(line)

    def entry(self, name, nbytes, kernel, batch):
        e = Entry(name, nbytes, [None])
        e.time = lambda ms: self.ask(cmd="time", kernel=kernel, batch=batch, ms=ms)["ns"]
        return e


def numpy_entries(w, xs, copies, **_):
    ws = [w.copy() for _ in range(copies(w.nbytes))]
    out = {}
    for b, x in xs.items():
        if b == 1:
            out[b] = [Entry("numpy OpenBLAS f32", w.nbytes, [lambda m=m, v=x[0]: m @ v for m in ws])]
            continue
        xt = np.ascontiguousarray(x.T)
        y, yt = np.empty((b, w.shape[0]), np.float32), np.empty((w.shape[0], b), np.float32)
        out[b] = [Entry("numpy OpenBLAS f32 (X W^T)", w.nbytes, [lambda m=m, x=x, y=y: np.matmul(x, m.T, out=y) for m in ws]),
                  Entry("numpy OpenBLAS f32 (W X)", w.nbytes, [lambda m=m, x=xt, y=yt: np.matmul(m, x, out=y) for m in ws])]
    return out


def scipy_entries(w, xs, copies, rng, **_):
    import scipy.sparse as sp
    out = {b: [] for b in xs if b <= 128}
    for s in (0.8, 0.9, 0.95):
        m = sp.csr_matrix(w * (rng.random(w.shape, dtype=np.float32) >= s))
        nb = m.data.nbytes + m.indices.nbytes + m.indptr.nbytes
        ms = [m.copy() for _ in range(copies(nb))]
        for b in out:
            x = xs[b][0] if b == 1 else np.ascontiguousarray(xs[b].T)
            out[b].append(Entry(f"scipy csr f32 {s}", nb, [lambda m=c, x=x: m @ x for c in ms]))
    return out


def onnx_model(w, int8=False):
    """A MatMul by w^T of any number of rows; int8: dynamic, a scale for all of w."""
    from onnx import TensorProto, helper, numpy_helper
    rows, cols = w.shape
    if int8:
        scale = np.float32(np.abs(w).max() / 127)
        q = np.ascontiguousarray(np.clip(np.round(w.T / scale), -127, 127).astype(np.int8))
        nodes = [helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]), helper.make_node("MatMulInteger", ["xq", "wq", "xz", "wz"], ["i"]),
                 helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT), helper.make_node("Mul", ["xs", "ws"], ["s"]), helper.make_node("Mul", ["f", "s"], ["y"])]
        inits = [numpy_helper.from_array(q, "wq"), numpy_helper.from_array(np.int8(0), "wz"), numpy_helper.from_array(scale, "ws")]
    else:
        nodes, inits = [helper.make_node("MatMul", ["x", "w"], ["y"])], [numpy_helper.from_array(np.ascontiguousarray(w.T), "w")]
    g = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", cols])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", rows])], inits)
    m = helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)])
    m.ir_version = 8
    return m.SerializeToString()


def ort_entries(w, xs, copies, threads, **_):
    import onnxruntime as ort
    so = ort.SessionOptions()
    so.intra_op_num_threads, so.log_severity_level = threads, 3
    out = {b: [] for b in xs}
    for name, m, nb in (("onnxruntime f32", onnx_model(w), w.nbytes), ("onnxruntime int8 dynamic", onnx_model(w, True), w.size)):
        ss = [ort.InferenceSession(m, so, providers=["CPUExecutionProvider"]) for _ in range(copies(nb))]
        for b, x in xs.items():
            out[b].append(Entry(name, nb, [lambda s=s, x=x: s.run(None, {"x": x}) for s in ss]))
    return out


def torch_entries(w, xs, copies, threads, **_):
    import torch
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    xs = {b: torch.from_numpy(x) for b, x in xs.items() if b <= 128}
    out = {b: [] for b in xs}
    for name, t, nb in (("torch f32", torch.float32, w.nbytes), ("torch f16", torch.float16, w.nbytes // 2), ("torch bf16", torch.bfloat16, w.nbytes // 2)):
        ws = [torch.from_numpy(w).to(t, copy=True) for _ in range(copies(nb))]
        for b, x in xs.items():
            if b > 1 and t != torch.float32:  # they take five times as long as f32 in batches
                continue
            out[b].append(Entry(name, nb, [lambda m=m, x=x.to(t): torch.nn.functional.linear(x, m) for m in ws]))
    lin = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    lin.weight.copy_(torch.from_numpy(w))
    try:
        qs = [torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(lin), {torch.nn.Linear}, dtype=torch.qint8) for _ in range(copies(w.size))]
        for b, x in xs.items():
            out[b].append(Entry("torch int8 dynamic", w.size, [lambda m=m, x=x: m(x) for m in qs]))
    except Exception as e:  # removed or without an engine in some builds
        print("# torch int8 dynamic: not measured:", e, file=sys.stderr)
    return out


def deepsparse_rounds(w, x, threads, rounds, ms, rng, root):
    """DeepSparse 1.8, in a Python 3.10 of its own, already timed: its idle threads keep cores
    busy, so it runs after the others and alone. One engine for each sparsity, weights as warm
    as they come; 4096x4096 only, since an engine takes seconds to compile."""
    python = os.path.join(root, ".venv-deepsparse", "bin", "python")
    if not os.path.exists(python):
        raise ImportError("no Python 3.10 with deepsparse in .venv-deepsparse")
    if w.shape != (4096, 4096):
        return []
    engine = Piped(python, os.path.join(os.path.dirname(os.path.abspath(__file__)), "deepsparse_bench.py"))
    out = []
    for kernel, s in enumerate((0, 0.8, 0.9, 0.95)):
        path = os.path.join(root, "bench", "out", f"deepsparse-{s}.onnx")
        with open(path, "wb") as f:
            f.write(onnx_model(w * (rng.random(w.shape, dtype=np.float32) >= s)))
        r = engine.ask(cmd="open", model=path, batch=x.shape[0], cols=w.shape[1], threads=threads)
        os.remove(path)
        if "error" in r:
            raise OSError(r["error"])
        out.append(engine.entry(f"deepsparse f32 {s}", int(w.nbytes * (1 - s)), kernel, x.shape[0]))
    for _ in range(rounds):
        for e in out:
            e.ns.append(e.time(ms))
    engine.p.kill()
    engine.p.wait()
    return out
