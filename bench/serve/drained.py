"""After SIGTERM under load: LAST.json SERVER.log. Every request that got an answer was
answered in full; the server worked on none that no client got."""

import json, sys

r = json.load(open(sys.argv[1]))
lines = [json.loads(l) for l in open(sys.argv[2]) if l.startswith("{")]
end = max(i for i, l in enumerate(lines) if l["msg"] == "draining")
lost = [e for e in r.get("errors", []) if "refused" not in e and "reset" not in e and "EOF" not in e]
codes = {k: v for k, v in r["codes"].items() if k not in ("200", "no answer")}
after = [l for l in lines[end:] if l["msg"] == "request" and l["path"] == "/v1/completions" and l["status"] != 200]
if lost or codes or after or r["good"] == 0:
    sys.exit(f"drain: lost {lost}, codes {codes}, after SIGTERM {after[:3]}")
print(f"drain: {r['good']} requests answered in full, {r['codes'].get('no answer', 0)} not accepted any more, "
      f"{sum(1 for l in lines[end:] if l['msg'] == 'request')} finished after the signal, exit code 0")
