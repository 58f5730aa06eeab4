#!/bin/bash
# The server under its real clients: `make serve-check` (three minutes on two cores) or
# `make serve-soak` (ten minutes of load). Starts the real binary and runs, against it:
# the official Python clients, schemathesis on the OpenAPI document, promtool on
# /metrics, streams, mixed load with a hold on memory, the page in headless Chromium, and
# SIGTERM under load. Only loopback is spoken to. What is not there is installed: Python
# packages into .venv-serve, promtool and Chromium from Debian's archive.
#
# SOAK_SECONDS: of mixed load, 60. SKIP: steps to leave out, "clients schemathesis" say.
set -euo pipefail
cd "$(dirname "$0")/../.."
soak=${SOAK_SECONDS:-60}
venv=.venv-serve
out=bench/out/serve
mkdir -p $out
step() { printf '\n--- %s (%d s so far)\n' "$*" $SECONDS; }
want() { case " ${SKIP:-} " in *" $1 "*) false ;; *) step "${*:2}" ;; esac; }

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

# A chat model, a tiny one, its 2:4 twin (nm24 is asked for: dense is faster for a model
# this small, and then there is nothing to compare), and networks with known answers.
# The context is small so that all KV pages are touched before memory is watched.
chat=${SPARSERUN_MODELS:-models}/SmolLM2-135M-Instruct.Q4_1.gguf
tiny=${SPARSERUN_DATA:-../shared/data}/stories260K
for f in "$chat" "$tiny"; do [ -e "$f" ] || { echo "serve-check: $f is not there (make models; SPARSERUN_DATA)"; exit 1; }; done
$out/sparserun prune "$tiny" -o $out/pruned.safetensors --pattern 2:4 --method magnitude --json >/dev/null 2>$out/prune.log || { cat $out/prune.log; exit 1; }
go run ./bench/serve/models $out/models
cat >$out/config.json <<END
{"addr": "127.0.0.1:0", "grpc-addr": "127.0.0.1:0", "admin-addr": "127.0.0.1:0", "dtype": "int8", "shadow-dense": 0.05, "models": [
  {"name": "chat", "path": "$chat", "context": 1024}, {"name": "lm", "path": "$tiny"}, {"name": "pruned", "path": "$out/pruned.safetensors", "sparse": "nm24"},
  {"name": "affine", "path": "$out/models/affine.onnx", "dtype": "f32"}, {"name": "echo", "path": "$out/models/echo.onnx", "dtype": "f32"}]}
END

step start
rm -f $out/ready.json
$out/sparserun serve --config $out/config.json --json >$out/ready.json 2>$out/server.log &
pid=$!
trap 'kill -9 $pid 2>/dev/null || true' EXIT
for _ in $(seq 600); do [ -s $out/ready.json ] && break; kill -0 $pid 2>/dev/null || { cat $out/server.log; exit 1; }; sleep 0.1; done
field() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' $out/ready.json "$1"; }
url=$(field url) grpc=$(field grpc_addr) admin=$(field admin_addr)
echo "$url, gRPC $grpc, admin $admin"

if want clients "official clients, on a server with API keys"; then
  $venv/bin/python bench/serve/clients/run.py $out/sparserun $out/models --lm chat="$chat"
fi

if want schemathesis "schemathesis on /openapi.json"; then
  (cd $out && PYTHONPATH=$OLDPWD/bench/serve/clients SCHEMATHESIS_HOOKS=schema_hooks SERVE_LM=lm SERVE_NET=affine \
    "$OLDPWD/$venv/bin/schemathesis" --config-file "$OLDPWD/bench/serve/schemathesis.toml" run "$url/openapi.json" --url "$url") >$out/schemathesis.log 2>&1 ||
    { tail -100 $out/schemathesis.log; exit 1; }
  tail -8 $out/schemathesis.log
fi

if want promtool "promtool check metrics"; then
  curl -sf "$url/metrics" >$out/metrics.txt
  $promtool check metrics <$out/metrics.txt
  echo "$(grep -c '^# TYPE' $out/metrics.txt) metrics, clean"
fi

if want load "8 streams"; then
  $out/load --url "$url" --model chat --streams 8 --requests 24 --tokens 48 | tee $out/load.json | python3 -c '
import json, sys
r = json.load(sys.stdin)
print("%d requests, %.0f tokens/s, first token p95 %.0f ms, between tokens p95 %.1f ms" % (r["good"], r["tokens_per_s"], 1e3 * r["time_to_first_token"]["p95"], 1e3 * r["inter_token"]["p95"]))'
fi

if want soak "mixed load with a hold on memory, $soak s"; then
  python3 bench/serve/soak.py "$url" $pid $out/load "$soak"
fi

if want page "live page in headless Chromium"; then
  python3 bench/serve/screenshot.py "$url" "$chromium" $out
fi

step "SIGTERM under load"
$out/load --url "$url" --model lm --streams 8 --requests 0 --duration 3s --tokens 200 >$out/last.json & loader=$!
sleep 1.5
kill -TERM $pid
wait $loader || true
code=0; wait $pid || code=$?
trap - EXIT
[ $code = 0 ] || { tail -20 $out/server.log; echo "serve-check: exit code $code after SIGTERM, want 0"; exit 1; }
python3 bench/serve/drained.py $out/last.json $out/server.log
if grep -q '"panic"' $out/server.log; then grep '"panic"' $out/server.log | head -3; echo "serve-check: a handler panicked"; exit 1; fi
step "done"
