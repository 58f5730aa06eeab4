"""Mixed load with a hold on memory: URL PID LOAD SECONDS. Runs the load tool's mixed
load (short, long, unstreamed, sampled, cancelled, wrong) on every language model and
watches the process: after a quarter of the time, its resident memory may not grow by
more than 2 %, or 2 MiB where the process is that small (medians of the second quarter and
of the last), nor the number of its open files. At the end nothing may be left running."""

import json, os, statistics, subprocess, sys, time, urllib.request

url, pid, load, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])


def rss():
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def stats():
    with urllib.request.urlopen(url + "/api/stats") as r:
        return json.load(r)


models = [m["name"] for m in stats()["models"] if m.get("kind") == "language"]
jobs = [subprocess.Popen([load, "--url", url, "--model", m, "--streams", "6", "--requests", "0", "--duration", f"{seconds}s", "--tokens", "48", "--mixed"], stdout=subprocess.PIPE, text=True) for m in models]
start, samples, files = time.time(), [], []
while any(j.poll() is None for j in jobs):
    samples.append((time.time() - start, rss()))
    files.append(len(os.listdir(f"/proc/{pid}/fd")))
    time.sleep(0.25)
bad = []
for m, j in zip(models, jobs):
    r = json.loads(j.communicate()[0])
    print(f"{m}: {r['requests']} requests, {r['codes']}, {r['tokens_per_s']:.0f} tokens/s, first token p95 {1e3 * r['time_to_first_token']['p95']:.0f} ms, between p95 {1e3 * r['inter_token']['p95']:.1f} ms")
    if j.returncode:
        bad.append(f"{m}: {r.get('errors')}")
part = lambda a, b: statistics.median(v for t, v in samples if a * seconds <= t < b * seconds)
early, late = part(0.25, 0.5), part(0.75, 1.0)
growth = late / early - 1
print(f"resident memory: {early / 2**20:.1f} MiB in the second quarter, {late / 2**20:.1f} MiB in the last: {100 * growth:+.2f} %; at most {max(v for _, v in samples) / 2**20:.1f} MiB")
if late - early > max(0.02 * early, 2 << 20):
    bad.append(f"memory grew by {(late - early) / 2**20:.2f} MiB ({100 * growth:.2f} %), want at most 2 % or 2 MiB")
n = len(files) // 4
if n and max(files[-n:]) > max(files[n : 2 * n]) + 16:
    bad.append(f"open files: {max(files[n : 2 * n])} in the second quarter, {max(files[-n:])} in the last")
deadline = time.time() + 10
while True:
    s = stats()
    left = [(m["name"], m["running"], m["waiting"], m.get("kv", {}).get("pages_used", 0)) for m in s["models"] if m["running"] or m["waiting"] or (m.get("kv") or {}).get("pages_used")]
    if not left and s["in_flight"] == 1:  # this one
        break
    if time.time() > deadline:
        bad.append(f"left at the end: {left}, {s['in_flight']} in flight")
        break
    time.sleep(0.1)
for m in s["models"]:
    c = m.get("compare") or {}
    if c.get("twin"):
        print(f"{m['name']}: {c['runs']} shadow runs, decode {c['decode_ratio'] or 0:.2f}x dense, largest logit difference {c['max_abs_error'] or 0:.2g}")
if bad:
    sys.exit("soak: " + "; ".join(bad))
