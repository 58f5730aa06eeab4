#!/usr/bin/env python3
"""Times ONNX networks here and in onnxruntime (float32, one thread), in turns.

    python3 -m venv /opt/onnx/venv && /opt/onnx/venv/bin/pip install onnxruntime numpy
    go build -o /tmp/onnxbench ./bench/onnx
    /opt/onnx/venv/bin/python bench/onnx/compare.py /tmp/onnxbench ../shared/data [ROUNDS]

A row is the median over the rounds, of the processor's time and of the clock's
(the least of the repeats). On a machine with other work only the first means
anything. Ratios above 1: this project is faster.
"""
import statistics, subprocess, sys, time
import numpy as np, onnxruntime as ort

binary, data = sys.argv[1], sys.argv[2].rstrip("/")
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
CASES = [  # file, batch, repeats, layouts
    ("lenet/lenet300100_sparse.onnx", 1, 200, ["dense", "auto"]),
    ("lenet/lenet300100_sparse.onnx", 128, 20, ["dense", "auto"]),
    ("lenet/lenet5_original.onnx", 1, 50, ["dense"]),
    ("lenet/lenet5_original.onnx", 64, 5, ["dense"]),
    ("lenet/lenet5_sparse.onnx", 64, 5, ["dense", "auto"]),
    ("resnet/resnet20.onnx", 1, 10, ["dense"]),
    ("resnet/resnet20.onnx", 16, 3, ["dense"]),
    ("squeezenet/squeezenet_deepcompression.onnx", 1, 3, ["dense", "auto"]),
]
ours = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def here(file, layout, batch, repeats):
    print(f"{data}/{file}", layout, batch, repeats, file=ours.stdin, flush=True)
    return tuple(map(int, ours.stdout.readline().split()))


options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
sessions = {}


def there(file, batch, repeats):
    if file not in sessions:
        sessions[file] = ort.InferenceSession(f"{data}/{file}", options, providers=["CPUExecutionProvider"])
    s = sessions[file]
    i = s.get_inputs()[0]
    x = np.random.default_rng(1).random([batch] + i.shape[1:], np.float32)
    best, cpu = 1 << 62, time.process_time_ns()
    for _ in range(repeats):
        t = time.perf_counter_ns()
        s.run(None, {i.name: x})
        best = min(best, time.perf_counter_ns() - t)
    return best, (time.process_time_ns() - cpu) // repeats


times = {}
for r in range(rounds + 1):
    for c, (file, batch, repeats, layouts) in enumerate(CASES):
        row = [there(file, batch, repeats)] + [here(file, l, batch, repeats) for l in layouts]
        if r:  # the first round warms up
            for k, v in enumerate(row):
                times.setdefault((c, k), []).append(v)
print(f"onnxruntime {ort.__version__}, 1 thread, float32, median of {rounds} rounds, microseconds a batch")
for kind, what in [(1, "processor"), (0, "clock")]:
    print(f"\n| network ({what}) | batch | onnxruntime | dense | auto | dense / ort | auto / ort | auto / dense |")
    print("|---|---|---|---|---|---|---|---|")
    for c, (file, batch, _, layouts) in enumerate(CASES):
        m = [statistics.median(v[kind] for v in times[c, k]) / 1e3 for k in range(len(layouts) + 1)]
        auto = m[2] if len(m) > 2 else None
        cell = lambda v, f: format(v, f) if v else ""
        print(f"| {file.split('/')[1]} | {batch} | {m[0]:.1f} | {m[1]:.1f} | {cell(auto, '.1f')} | {m[0] / m[1]:.2f} | "
              f"{cell(auto and m[0] / auto, '.2f')} | {cell(auto and m[1] / auto, '.2f')} |")
