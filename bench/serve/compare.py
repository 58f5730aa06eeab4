"""Servers side by side: sparserun (dense int8, 2:4 int8) and llama.cpp's Python server
(q8_0), one model, one load, by turns. Prints a table and writes bench/out/serve/compare.json.

llama-cpp-python's server answers one request at a time; its others wait. It is the only
server of llama.cpp that a package registry has. `local` is `sparserun run`, in a process of
its own; what HTTP costs on one session is BenchmarkOverhead of package serve."""

import argparse, json, os, platform, signal, socket, statistics, subprocess, sys, time, urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OUT = os.path.join(ROOT, "bench", "out", "serve")

QUANTISE = """import ctypes, os, sys
from llama_cpp import llama_cpp as ll
p = ll.llama_model_quantize_default_params()
p.ftype, p.allow_requantize, p.nthread = ll.LLAMA_FTYPE_MOSTLY_Q8_0, True, os.cpu_count()
sys.exit(ll.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(p)))"""

ap = argparse.ArgumentParser()
ap.add_argument("--rounds", type=int, default=3)
ap.add_argument("--tokens", type=int, default=64)
ap.add_argument("--model", default="models/SmolLM2-135M-Instruct.Q4_1.gguf")
ap.add_argument("--pruned", default="demo/smollm2-2of4.safetensors")
ap.add_argument("--threads", type=int, default=os.cpu_count())
ap.add_argument("--streams", default="1,8")
args = ap.parse_args()
os.chdir(ROOT)
streams = [int(s) for s in args.streams.split(",")]
binary, load = os.path.join(OUT, "sparserun"), os.path.join(OUT, "load")


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(command, url, ready, log, **kw):
    f = open(os.path.join(OUT, log), "w")
    p = subprocess.Popen(command, stdout=f, stderr=f, **kw)
    deadline = time.time() + 120
    while True:
        if p.poll() is not None or time.time() > deadline:
            sys.exit(f"{command[0]}: did not start, see {f.name}")
        try:
            urllib.request.urlopen(url + ready, timeout=2).read()
            return p
        except OSError:
            time.sleep(0.2)


def sparserun(label, path):
    url = f"http://127.0.0.1:{port()}"
    p = start([binary, "serve", f"m={path}", "--addr", url[7:], "--grpc-addr", "off", "--dtype", "int8", "--threads", str(args.threads), "--log-level", "warn"], url, "/readyz", f"compare-{label.split()[0]}.log")
    return label, url, p


def llama(label):
    q8 = os.path.join(ROOT, "bench", "out", "peer-q8_0.gguf")  # the same file, requantised by llama.cpp itself; bench/peers makes the same
    if not os.path.exists(q8):
        subprocess.run([sys.executable, "-c", QUANTISE, args.model, q8], check=True, capture_output=True)
    url = f"http://127.0.0.1:{port()}"
    p = start([sys.executable, "-m", "llama_cpp.server", "--model", q8, "--model_alias", "m", "--host", "127.0.0.1", "--port", url.rsplit(":", 1)[1],
               "--n_ctx", "1024", "--n_batch", "512", "--n_threads", str(args.threads), "--n_threads_batch", str(args.threads), "--interrupt_requests", "false", "--verbose", "false"], url, "/v1/models", "compare-llama.log")
    return label, url, p


def measure(url, n):
    r = subprocess.run([load, "--url", url, "--model", "m", "--streams", str(n), "--requests", str(5 if n == 1 else 3 * n), "--tokens", str(args.tokens)], capture_output=True, text=True)
    out = json.loads(r.stdout)
    if r.returncode:
        sys.exit(f"{url}: {out}")
    return out


def local(path):
    r = subprocess.run([binary, "run", path, "--dtype", "int8", "-p", "1. Once upon a time there was a", "-n", str(args.tokens), "--ignore-eos", "--threads", str(args.threads), "--json", "-q"], capture_output=True, text=True, check=True)
    j = json.loads(r.stdout)
    return (j.get("sparse") or j["dense"])["decode_tokens_per_s"]


paths = {"sparserun dense int8": args.model}
if os.path.exists(args.pruned):
    paths["sparserun 2:4 int8"] = args.pruned
else:
    print(f"{args.pruned} is not there (make demo): no 2:4 row", file=sys.stderr)
servers, rows, alone = [], {}, {}
try:
    for label, path in paths.items():
        servers.append(sparserun(label, path))
    servers.append(llama("llama.cpp q8_0"))
    for _, url, _ in servers:
        measure(url, 2)  # warm
    for _ in range(args.rounds):
        for label, path in paths.items():
            alone.setdefault(label, []).append(local(path))
        for n in streams:
            for label, url, _ in servers:
                rows.setdefault((label, n), []).append(measure(url, n))
finally:
    for _, _, p in servers:
        p.send_signal(signal.SIGTERM)
    for _, _, p in servers:
        p.wait(60)

med = lambda rs, f: statistics.median(f(r) for r in rs)
cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor())
print(f"{cpu}, {args.threads} threads; {os.path.basename(args.model)}; {args.tokens} tokens a request; medians of {args.rounds} rounds by turns")
print(f"{'server':22} {'streams':>7} {'tokens/s':>9} {'one stream':>11} {'first p50':>10} {'first p95':>10} {'between p50':>12} {'between p95':>12} {'request p95':>12}")
table = []
for (label, n), rs in rows.items():
    row = {"server": label, "streams": n, "tokens_per_s": med(rs, lambda r: r["tokens_per_s"]), "decode_tokens_per_s": med(rs, lambda r: r["decode_tokens_per_s"]),
           **{f"{k}_{q}": med(rs, lambda r: r[j][q]) for k, j in (("first", "time_to_first_token"), ("between", "inter_token"), ("request", "request")) for q in ("p50", "p95")}}
    table.append(row)
    ms = lambda k: f"{1e3 * row[k]:.1f} ms"
    print(f"{label:22} {n:7} {row['tokens_per_s']:9.1f} {row['decode_tokens_per_s']:11.1f} {ms('first_p50'):>10} {ms('first_p95'):>10} {ms('between_p50'):>12} {ms('between_p95'):>12} {ms('request_p95'):>12}")
rate = {(r["server"], r["streams"]): r for r in table}
for label in paths:
    a, one = statistics.median(alone[label]), rate[label, streams[0]]["decode_tokens_per_s"]
    gains = f"{streams[-1]} streams give {rate[label, streams[-1]]['tokens_per_s'] / rate[label, streams[0]]['tokens_per_s']:.2f}x the tokens/s of {streams[0]}"
    print(f"{label}: {gains}; one stream decodes {one:.1f} tokens/s, `sparserun run` {a:.1f}: {100 * (1 - one / a):.1f} % less (another process, which alone moves by some 10 %; what HTTP costs: go test ./serve -run xxx -bench Overhead -benchtime 60x)")
    for n in streams:
        print(f"  beside llama.cpp at {n}: {rate[label, n]['tokens_per_s'] / rate['llama.cpp q8_0', n]['tokens_per_s']:.2f}x tokens/s, first token p95 {rate[label, n]['first_p95'] / rate['llama.cpp q8_0', n]['first_p95']:.2f}x")
json.dump({"cpu": cpu, "threads": args.threads, "rows": table, "local": alone}, open(os.path.join(OUT, "compare.json"), "w"), indent=1)
