"""Times what PyTorch brings along - cuBLAS and cuBLASLt (torch.matmul, torch._int_mm),
cuSPARSELt and CUTLASS's sparse GEMM (torch's semi-structured tensors) - over the shapes
of gpucheck and writes rivals.json. Medians of event times; weights rotate over 128 MiB
so that they come from device memory. What a version lacks is said and left out."""
import json, statistics, sys

try:
    import torch
except ImportError:
    sys.exit("no PyTorch: rivals are not measured")
if not torch.cuda.is_available():
    sys.exit("PyTorch sees no GPU: rivals are not measured")

SHAPES = [(4096, 4096), (14336, 4096), (4096, 14336), (11008, 4096), (1536, 576)]
BATCHES = [1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
LEAST = {"f16": 8, "int8": 32}  # batches below are padded or refused by the sparse kernels
KINDS = {"cusparselt": "SparseSemiStructuredTensorCUSPARSELT", "torch cutlass 2:4": "SparseSemiStructuredTensorCUTLASS"}


def median_ns(f, copies):
    for i in range(5):
        f(i % copies)
    times = []
    for i in range(20):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        f(i % copies)
        b.record()
        b.synchronize()
        times.append(a.elapsed_time(b) * 1e6)
    return int(statistics.median(times))


def weights(rows, cols, dtype, copies):
    if dtype == torch.int8:
        return [torch.randint(-127, 128, (rows, cols), device="cuda", dtype=dtype) for _ in range(copies)]
    return [torch.randn(rows, cols, device="cuda", dtype=dtype) for _ in range(copies)]


out, said = [], set()


def attempt(name, rows, cols, n, f, copies):
    try:
        out.append(dict(name=name, rows=rows, cols=cols, batch=n, ns=median_ns(f, copies)))
    except Exception as e:  # each line stands for itself
        if name not in said:
            print(f"{name}, {rows}x{cols} batch {n}: {str(e).splitlines()[0]}", file=sys.stderr)
            said.add(name)


for rows, cols in SHAPES:
    for kind, dtype in (("f16", torch.float16), ("int8", torch.int8)):
        copies = max(1, min(64, (128 << 20) // (rows * cols * dtype.itemsize)))
        ws = weights(rows, cols, dtype, copies)
        mask = torch.tensor([1, 0, 0, 1], device="cuda", dtype=dtype).repeat(rows, cols // 4)
        sparse = {}
        for name, cls in KINDS.items():
            try:
                make = getattr(torch.sparse, cls).from_dense
                sparse[name] = [make(w * mask) for w in ws]
            except Exception as e:
                print(f"{name} {kind}, {rows}x{cols}: {str(e).splitlines()[0]}", file=sys.stderr)
        for n in BATCHES:
            x = weights(n, cols, dtype, 1)[0].t()  # (cols, n), columns contiguous: a batch of rows
            if kind == "f16":
                attempt("cublas f16", rows, cols, n, lambda i: ws[i] @ x, copies)
            elif n > 16:  # what torch._int_mm asks for
                attempt("cublaslt int8", rows, cols, n, lambda i: torch._int_mm(ws[i], x), copies)
            if n >= LEAST[kind]:
                for name, s in sparse.items():
                    attempt(f"{name} {kind}", rows, cols, n, lambda i: torch.mm(s[i], x), copies)
        del ws, sparse
json.dump(out, open("rivals.json", "w"))
lt = torch.backends.cusparselt.version() if hasattr(torch.backends, "cusparselt") else None
print(f"{len(out)} timings, PyTorch {torch.__version__}, CUDA {torch.version.cuda}, cuSPARSELt {lt}")
