"""Times DeepSparse for kernels.py, which needs a newer Python: JSON requests on
stdin, one a line, answers on stdout (see kernelbench)."""
import json
import os
import sys
import time

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # the engine prints

import numpy as np  # noqa: E402

kernels = []
for line in sys.stdin:
    r = json.loads(line)
    try:
        if r["cmd"] == "open":
            from deepsparse import Engine
            x = np.random.default_rng(2).standard_normal((r["batch"], r["cols"]), dtype=np.float32)
            e = Engine(r["model"], batch_size=r["batch"], num_cores=r["threads"])
            e.run([x])
            kernels.append((e, x))
            a = {}
        else:
            e, x = kernels[r["kernel"]]
            n, start = 0, time.perf_counter_ns()
            while n < 1 or time.perf_counter_ns() - start < r["ms"] * 1e6:
                e.run([x])
                n += 1
            a = {"ns": (time.perf_counter_ns() - start) / n}
    except Exception as err:
        a = {"error": f"deepsparse: {err}".splitlines()[0]}
    print(json.dumps(a), file=answers, flush=True)
