"""The live page in headless Chromium: URL CHROMIUM OUT. Writes page-light.png and
page-dark.png, fails on any console message (an error, a refused resource), and looks
into the page for what must be shown."""

import html, os, re, subprocess, sys

url, chromium, out = sys.argv[1:]
common = [chromium, "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=4000", "--enable-logging=stderr"]


def browse(*args):
    p = subprocess.run([*common, *args, url + "/"], capture_output=True, text=True, timeout=120)
    said = [l for l in p.stderr.splitlines() if "CONSOLE" in l or "Refused" in l or "Uncaught" in l]
    if p.returncode or said:
        sys.exit(f"page: exit {p.returncode}: {said or p.stderr[-500:]}")
    return p.stdout


for scheme, code in (("dark", 0), ("light", 1)):
    png = os.path.join(out, f"page-{scheme}.png")
    if os.path.exists(png):
        os.remove(png)
    browse(f"--blink-settings=preferredColorScheme={code}", "--window-size=1280,2200", f"--screenshot={png}")
    if os.path.getsize(png) < 30_000:
        sys.exit(f"page: {png}: {os.path.getsize(png)} bytes: an empty page")
    print(png)

text = html.unescape(re.sub(r"<script>.*?</script>|<style>.*?</style>", "", browse("--dump-dom"), flags=re.S))
models = len(re.findall(r"<article", text))
for want in ("ready", "output tokens/s", "running / waiting", "time to first token, p95", "Tokens per second", "Dense beside sparse, measured",
             "shadow runs", "Memory", "metadata", "KV", "Between tokens", "Whole request", "Work done and skipped", "Layers:", "asked for"):
    if want not in text:
        sys.exit(f"page: {want!r} is not on it")
if models < 2 or text.count("<svg") < 6 * models:
    sys.exit(f"page: want a chart in every card, got {text.count('<svg')} for {models} models")
for bad in ("NaN", "undefined", "Infinity", "[object"):
    if bad in text:
        sys.exit(f"page: {bad!r} is on it: …{text[max(0, text.find(bad) - 80):text.find(bad) + 20]}…")
print(f"page: {models} models, {text.count('<svg')} charts, no console message")
