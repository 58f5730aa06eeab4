"""ggml's matrix product, through the shared library that llama-cpp-python bundles."""
import ctypes as C
import glob
import os

import numpy as np

TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "q4_K": 12}


class InitParams(C.Structure):
    _fields_ = [("mem_size", C.c_size_t), ("mem_buffer", C.c_void_p), ("no_alloc", C.c_bool)]


def library():
    """Loads ggml with its CPU backend, from the folder GGML_LIB where that is set."""
    import importlib.util
    root = os.environ.get("GGML_LIB")
    if not root:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None:
            raise ImportError("llama-cpp-python is not installed")
        root = os.path.join(os.path.dirname(spec.origin), "lib")
    libs = {}
    for stem in ("ggml-base", "ggml-cpu", "ggml"):
        found = sorted(glob.glob(os.path.join(root, f"lib{stem}.so*")) + glob.glob(os.path.join(root, f"lib{stem}-*.so")))
        if found:
            libs[stem] = C.CDLL(found[0], mode=C.RTLD_GLOBAL)
    base, cpu = libs["ggml-base"], libs["ggml-cpu"]
    p, i64, sz = C.c_void_p, C.c_int64, C.c_size_t
    for f, res, a in ((base.ggml_init, p, [InitParams]), (base.ggml_new_tensor_2d, p, [p, C.c_int, i64, i64]), (base.ggml_mul_mat, p, [p, p, p]),
                      (base.ggml_new_graph, p, [p]), (base.ggml_build_forward_expand, None, [p, p]), (base.ggml_get_data, p, [p]),
                      (base.ggml_nbytes, sz, [p]), (base.ggml_quantize_chunk, sz, [C.c_int, p, p, i64, i64, i64, p]), (base.ggml_free, None, [p]),
                      (cpu.ggml_graph_compute_with_ctx, C.c_int, [p, p, C.c_int])):
        f.restype, f.argtypes = res, a
    if hasattr(cpu, "ggml_cpu_init"):
        cpu.ggml_cpu_init()
    return base, cpu


LIB = None


def ggml_entries(w, xs, copies, threads, **_):
    """Entries by batch for every type: a graph with one mul_mat for each copy of the weight."""
    from rivals import Entry
    global LIB
    LIB = LIB or library()
    base, cpu = LIB
    rows, cols = w.shape
    xs = {b: x for b, x in xs.items() if b <= 128}
    out = {b: [] for b in xs}
    for name, t in TYPES.items():
        if cols % 256 and name == "q4_K":
            continue
        nb = int(w.size * {"f32": 4, "f16": 2, "q4_0": 18 / 32, "q8_0": 34 / 32, "q4_K": 144 / 256}[name])
        calls, results, first = {b: [] for b in xs}, {}, None
        for _ in range(copies(nb)):
            size = nb + sum(x.nbytes + rows * b * 4 for b, x in xs.items()) + (64 << 20)
            ctx = base.ggml_init(InitParams(size, None, False))
            a = base.ggml_new_tensor_2d(ctx, t, cols, rows)
            if first is None:
                first = quantised(base, w, t, base.ggml_nbytes(a))
            C.memmove(base.ggml_get_data(a), first, len(first))
            for b, x in xs.items():
                v = base.ggml_new_tensor_2d(ctx, 0, cols, b)
                C.memmove(base.ggml_get_data(v), x.ctypes.data, x.nbytes)
                y = base.ggml_mul_mat(ctx, a, v)
                g = base.ggml_new_graph(ctx)
                base.ggml_build_forward_expand(g, y)

                def call(ctx=ctx, g=g):
                    if cpu.ggml_graph_compute_with_ctx(ctx, g, threads) != 0:
                        raise OSError("ggml_graph_compute failed")
                calls[b].append(call)
                results[b] = y
        for b, x in xs.items():
            # What was computed, checked once against numpy: a peer that computes nothing is fast.
            calls[b][-1]()
            got = np.ctypeslib.as_array(C.cast(base.ggml_get_data(results[b]), C.POINTER(C.c_float)), (b, rows))
            want = x @ w.T
            err = np.linalg.norm(got - want) / np.linalg.norm(want)
            if not err < 0.2:  # 4-bit codes are off by about 0.1
                raise OSError(f"ggml {name}: result is off by {err:.3g}")
            out[b].append(Entry("ggml " + name, nb, calls[b]))
    return out


def quantised(base, w, t, size):
    if t == 0:
        return np.ascontiguousarray(w).tobytes()
    if t == 1:
        return w.astype(np.float16).tobytes()
    buf = C.create_string_buffer(size)
    base.ggml_quantize_chunk(t, w.ctypes.data, buf, 0, w.shape[0], w.shape[1], None)
    return buf.raw
