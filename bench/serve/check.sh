#!/bin/bash
# The server under its real clients: `make serve-check` (three minutes on two cores) or
# `make serve-soak` (ten minutes of load). Starts the real binary and runs, against it:
# the official Python clients, schemathesis on the OpenAPI document, promtool on
# /metrics, the page in headless Chromium, overload, mixed load with a hold on memory, and
# SIGTERM under load. SOAK_MODEL is one more model for the mixed load. Only loopback is spoken to. What is not there is installed: Python
# packages into .venv-serve, promtool and Chromium from Debian's archive.
set -euo pipefail
cd "$(dirname "$0")/../.."
soak=${SOAK_SECONDS:-60}
venv=.venv-serve
out=bench/out/serve
mkdir -p "$out"
step() { printf '\n--- %s (%d s so far)\n' "$*" $SECONDS; }

step install
if [ ! -x $venv/bin/python ]; then python3 -m venv $venv; fi
if ! cmp -s bench/serve/requirements.txt $venv/installed.txt; then
  $venv/bin/pip install -q --disable-pip-version-check -r bench/serve/requirements.txt
  cp bench/serve/requirements.txt $venv/installed.txt
fi
promtool=$(bench/serve/promtool.sh)
chromium=$(bench/serve/chromium.sh)
go build -o $out/load ./bench/serve
CGO_ENABLED=0 go build -trimpath -o $out/sparserun ./cmd/sparserun

data=${SPARSERUN_DATA:-../shared/data}
lm=$data/stories260K
net=$(ls "$data"/lenet/*.onnx 2>/dev/null | head -1 || true)
[ -d "$lm" ] || { echo "serve-check: $lm: no reference data (SPARSERUN_DATA)"; exit 1; }
# A model with zeros, so that sparse stands beside dense.
pruned=$out/pruned.safetensors
$out/sparserun prune "$lm" -o "$out/pruned.safetensors" --pattern 2:4 --method magnitude --json >/dev/null 2>$out/prune.log || { cat $out/prune.log; exit 1; }

step start
# nm24 is asked for: dense is faster for a model this small, and then there is nothing to compare.
$out/sparserun serve lm="$lm" pruned="$pruned" ${net:+net="$net"} ${SOAK_MODEL:+soak="$SOAK_MODEL"} --addr 127.0.0.1:0 --grpc-addr 127.0.0.1:0 --admin-addr 127.0.0.1:0 \
  --dtype int8 --sparse nm24 --shadow-dense 0.05 --queue 64 --json >$out/ready.json 2>$out/server.log &
pid=$!
trap 'kill -9 $pid 2>/dev/null || true' EXIT
for _ in $(seq 100); do [ -s $out/ready.json ] && break; kill -0 $pid 2>/dev/null || { cat $out/server.log; exit 1; }; sleep 0.1; done
field() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1])).get(sys.argv[2], ""))' $out/ready.json "$1"; }
url=$(field url) grpc=$(field grpc_addr) admin=$(field admin_addr)
echo "$url, gRPC $grpc, admin $admin"

if [ -f bench/serve/clients/run.py ]; then
  step "official clients"
  $venv/bin/python bench/serve/clients/run.py "$url" "$grpc" --lm lm ${net:+--net net}
fi

if [ -z "${SKIP_SCHEMATHESIS:-}" ]; then
step schemathesis
$venv/bin/schemathesis --config-file bench/serve/schemathesis.toml run "$url/openapi.json" --url "$url" >$out/schemathesis.log 2>&1 || { tail -80 $out/schemathesis.log; exit 1; }
tail -3 $out/schemathesis.log
fi

step "promtool check metrics"
curl -sf "$url/metrics" >$out/metrics.txt
$promtool check metrics <$out/metrics.txt
echo "$(grep -c '^# TYPE' $out/metrics.txt) metrics, clean"

step "load, 8 streams"
$out/load --url "$url" --model lm --streams 8 --requests 400 --tokens 64

step "mixed load with a hold on memory, $soak s"
python3 bench/serve/soak.py "$url" $pid $out/load "$soak"

step "live page in headless Chromium"
python3 bench/serve/screenshot.py "$url" "$chromium" $out

step "SIGTERM under load"
$out/load --url "$url" --model lm --streams 8 --requests 0 --duration 3s --tokens 200 >$out/last.json & loader=$!
sleep 1.5
kill -TERM $pid
wait $loader || true
code=0; wait $pid || code=$?
trap - EXIT
[ $code = 0 ] || { tail -20 $out/server.log; echo "serve-check: exit code $code after SIGTERM, want 0"; exit 1; }
python3 bench/serve/drained.py $out/last.json $out/server.log
step "done: server, clients, metrics, memory, page and drain are as they should be"
