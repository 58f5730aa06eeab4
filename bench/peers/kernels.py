"""Linear layers y = x W^T: sparserun beside its peers, in one interleaved run.

Every entry owns enough copies of its weight to outgrow the caches (--cold MiB)
and each call uses the next copy. Rounds go round robin over all entries, so that
whatever disturbs the machine disturbs all; medians are reported, and the best
round beside them. A peer that is not installed is named as such. The last table
sets the figures that are wanted beside those measured (figures.py)."""
import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import warnings

ap = argparse.ArgumentParser()
ap.add_argument("--kernelbench", required=True)
ap.add_argument("--shapes", default="4096x4096,11008x4096,2048x2048,768x3072")
ap.add_argument("--batch", default="1,128,512")
ap.add_argument("--threads", default="1,2")
ap.add_argument("--rounds", type=int, default=5)
ap.add_argument("--ms", type=float, default=10, help="least time of a round of one entry")
ap.add_argument("--cold", type=int, default=128, help="MiB of weights per entry")
ap.add_argument("--only", default="", help="regular expression on entries")
ap.add_argument("--skip", default="", help="peers to leave out, comma separated")
ap.add_argument("--json", default="", help="file to write")
args = ap.parse_args()
warnings.simplefilter("ignore")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

FEW = ["dense/f32/0", "dense/f16/0", "dense/int8/0", "dense/int4/0", "nm24/f16/0.5", "nm24/int8/0.5", "nm24/int4/0.5",
       "csr/f16/0.8", "csr/f16/0.9", "csr/f16/0.95", "bitmask/int8/0.5", "bitmask/int8/0.7", "bitmask/int8/0.8", "csr/int8/0.9"]
MANY = ["dense/f32/0", "dense/f16/0", "dense/int8/0", "nm24/f32/0.5", "nm24/int8/0.5", "csr/f32/0.5", "csr/f32/0.8", "csr/f32/0.9", "csr/f32/0.95"]


def machine():
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor())
    flags = next((l for l in open("/proc/cpuinfo") if l.startswith("flags")), "")
    return cpu, [f for f in ("avx2", "avx512f", "avx512_vnni", "avx512_vbmi2") if f" {f}" in flags]


def report(rows, missing, date, isa):
    from figures import figures
    cpu, has = machine()
    print(f"# Kernels beside peers: {cpu} ({', '.join(has)}; sparserun {isa}), {date}")
    seen = []
    for r in rows:
        key = (r["rows"], r["cols"], r["batch"], r["threads"])
        if key in seen:
            continue
        seen.append(key)
        es = [e for e in rows if (e["rows"], e["cols"], e["batch"], e["threads"]) == key]
        base = min((e["ns"] for e in es if e["entry"].startswith("numpy")), default=0)
        print(f"\n## {key[0]} x {key[1]}, batch {key[2]}, {key[3]} thread(s)\n\n| entry | us | best us | GB/s | GFLOP/s | vs OpenBLAS f32 |\n|---|---:|---:|---:|---:|---:|")
        for e in sorted(es, key=lambda e: e["ns"]):
            m = e["ns"]
            print(f"| {e['entry']} | {m / 1e3:.0f} | {e['best_ns'] / 1e3:.0f} | {e['bytes'] / m:.1f} | {2 * key[0] * key[1] * key[2] / m:.0f} | {base / m:.2f} |")
    for name, why in missing.items():
        print(f"\n{name}: not measured ({why})")
    print(f"\n## Figures: {cpu}, {date}\n")
    figures(rows)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(dict(machine=cpu, flags=has, isa=isa, date=date, missing=missing, rows=rows), f, indent=1)


def measure(threads):
    """All shapes and batches with one number of threads; OpenBLAS wants to know it before numpy is loaded."""
    import numpy as np
    import rivals
    from ggml import ggml_entries
    ours = rivals.Piped(args.kernelbench)
    peers = {"numpy": rivals.numpy_entries, "scipy": rivals.scipy_entries, "onnxruntime": rivals.ort_entries, "torch": rivals.torch_entries,
             "ggml": ggml_entries}
    peers = {k: f for k, f in peers.items() if k not in args.skip.split(",")}
    rows_out, missing, rng, isa = [], {}, np.random.default_rng(1), "?"
    batches = [int(b) for b in args.batch.split(",")]
    for shape in args.shapes.split(","):
        r, c = map(int, shape.split("x"))
        w = rng.standard_normal((r, c), dtype=np.float32) / 64
        xs = {b: rng.standard_normal((b, c), dtype=np.float32) for b in batches}
        names = [n for n in dict.fromkeys((FEW if min(batches) <= 8 else []) + (MANY if max(batches) > 8 else [])) if re.search(args.only, "sparserun " + n)]
        a = ours.ask(cmd="open", rows=r, cols=c, batch=max(batches), threads=threads, kernels=names, cold_mib=args.cold)
        isa = a["isa"]
        es = {b: [ours.entry("sparserun " + n, a["bytes"][i], i, b) for i, n in enumerate(names) if n in (FEW if b <= 8 else MANY)] for b in batches}
        for name, f in peers.items():
            try:
                got = f(w=w, xs=xs, copies=lambda nb: max(1, -(-(args.cold << 20) // max(1, nb))), threads=threads, rng=rng, root=ROOT)
                for b in got:
                    es[b] += [e for e in got[b] if re.search(args.only, e.name)]
            except (ImportError, OSError) as e:
                missing[name] = str(e)
        for b in batches:
            for e in es[b]:
                e.time(0)
            rounds = args.rounds if b <= 128 else max(1, args.rounds // 2)
            for _ in range(rounds):
                for e in es[b]:
                    rivals.settle()
                    e.ns.append(e.time(args.ms))
            if "deepsparse" not in args.skip.split(",") and b == 128:
                try:
                    es[b] += rivals.deepsparse_rounds(w, xs[b], threads, rounds, args.ms, rng, ROOT)
                except (ImportError, OSError) as e:
                    missing["deepsparse"] = str(e)
            for e in es[b]:
                if e.ns:
                    rows_out.append(dict(rows=r, cols=c, batch=b, threads=threads, entry=e.name, ns=float(np.median(e.ns)), best_ns=float(np.min(e.ns)), bytes=e.bytes))
            print(f"# {shape}, batch {b}, {threads} thread(s): {len(es[b])} entries", file=sys.stderr)
        del es
    return rows_out, missing, isa


def main():
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    threads = [int(t) for t in args.threads.split(",")]
    if len(threads) == 1:
        for v in ("OPENBLAS", "OMP", "MKL"):
            os.environ[v + "_NUM_THREADS"] = str(threads[0])
        rows, missing, isa = measure(threads[0])
        report(rows, missing, date, isa)
        return
    rows, missing, isa = [], {}, "?"
    for t in threads:  # a process each
        with tempfile.NamedTemporaryFile(suffix=".json") as f:
            subprocess.run([sys.executable, __file__, "--kernelbench", args.kernelbench, "--shapes", args.shapes, "--batch", args.batch, "--threads", str(t),
                            "--rounds", str(args.rounds), "--ms", str(args.ms), "--cold", str(args.cold), "--only", args.only, "--skip", args.skip, "--json", f.name], check=True, stdout=subprocess.DEVNULL)
            part = json.load(open(f.name))
        rows, isa = rows + part["rows"], part["isa"]
        missing.update(part["missing"])
    report(rows, missing, date, isa)


main()
