#!/usr/bin/env bash
# GPU check: conformance, then benches, against cuBLAS and cuSPARSELt where PyTorch is
# found. Needs an NVIDIA driver; no Go, no nvcc. Writes report.md, report.json,
# speedup.png and conformance.txt into the folder given (default: report/); what follows
# is for gpucheck. SPARSERUN_CONFORMANCE picks tests by a regular expression (default: all).
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-report}; shift || true
mkdir -p "$out"
echo "== conformance"
"$here/conformance" -test.v -test.run "${SPARSERUN_CONFORMANCE:-.}" >"$out/conformance.txt" 2>&1; status=$?
grep -E '^(=== RUN|--- |PASS|FAIL|ok)' "$out/conformance.txt" | grep -v RUN | tail -n 20
nvidia-smi -q >"$out/nvidia-smi.txt" 2>/dev/null || echo "no nvidia-smi"
echo "== rivals"
rivals=()
if (cd "$out" && python3 "$here/rivals.py"); then rivals=(-rivals "$out/rivals.json"); fi
echo "== benches"
"$here/gpucheck" -out "$out" "${rivals[@]}" "$@" || status=1
echo "report: $out/report.md"
exit $status
