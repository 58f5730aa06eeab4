"""Times cuBLAS (torch.matmul) and cuSPARSELt (torch's semi-structured tensors) over
the shapes of gpucheck and writes rivals.json. Medians of event times; weights rotate
over 128 MiB so that they come from device memory."""
import json, statistics, sys

try:
    import torch
except ImportError:
    sys.exit("no PyTorch: rivals are not measured")
if not torch.cuda.is_available():
    sys.exit("PyTorch sees no GPU: rivals are not measured")

SHAPES = [(4096, 4096), (14336, 4096), (4096, 14336), (11008, 4096), (1536, 576)]
BATCHES = [1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]


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


out = []
for rows, cols in SHAPES:
    copies = max(1, min(64, (128 << 20) // (rows * cols * 2)))
    ws = [torch.randn(rows, cols, device="cuda", dtype=torch.float16) for _ in range(copies)]
    sparse = []
    try:
        mask = torch.tensor([1, 0, 0, 1], device="cuda", dtype=torch.float16).repeat(rows, cols // 4)
        sparse = [torch.sparse.to_sparse_semi_structured(w * mask) for w in ws]
    except Exception as e:
        print("semi-structured:", e, file=sys.stderr)
    for n in BATCHES:
        x = torch.randn(cols, n, device="cuda", dtype=torch.float16)
        out.append(dict(name="cublas f16", rows=rows, cols=cols, batch=n, ns=median_ns(lambda i: ws[i] @ x, copies)))
        if sparse and n >= 8:
            try:
                out.append(dict(name="torch semi-structured f16", rows=rows, cols=cols, batch=n, ns=median_ns(lambda i: torch.mm(sparse[i], x), copies)))
            except Exception as e:
                print("semi-structured", rows, cols, n, e, file=sys.stderr)
json.dump(out, open("rivals.json", "w"))
print(len(out), "timings")
