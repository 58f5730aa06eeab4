#!/bin/bash
# Checks the examples: `make serve-examples`. Starts a server on loopback for the programs.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=.venv-serve
out=bench/out/serve
mkdir -p $out
[ -x $venv/bin/python ] || python3 -m venv $venv
$venv/bin/python -c 'import openai, tritonclient.grpc, tritonclient.http' 2>/dev/null || $venv/bin/pip install -q --disable-pip-version-check -r bench/serve/requirements.txt
# The model classes alone are read, so their dependencies are not wanted; a folder of their
# own keeps them out of the environment.
site=$venv/kubernetes-models
[ -d $site/kubernetes ] || $venv/bin/pip install -q --disable-pip-version-check --no-deps --target $site kserve==0.21.0 kubernetes==36.0.2

echo "--- Kubernetes manifests, strictly, as k8s.io/api has them"
(cd examples/serve/kubernetes/check && go test ./...)
$venv/bin/python examples/serve/kubernetes/kserve_check.py "$site/kserve/models" "$site/kubernetes/client/models" examples/serve/kubernetes/kserve.yaml

echo "--- Prometheus files"
promtool=$(bench/serve/promtool.sh)
(cd examples/serve/prometheus && "$promtool" check config prometheus.yml)

echo "--- systemd unit"
if command -v systemd-analyze >/dev/null; then
  sed "s#/usr/local/bin/sparserun#/bin/true#" examples/serve/systemd/sparserun.service >$out/sparserun.service
  systemd-analyze verify --man=no $out/sparserun.service
else
  echo "systemd-analyze is not here: the unit is not verified"
fi

echo "--- programs against a server"
data=${SPARSERUN_DATA:-../shared/data}
CGO_ENABLED=0 go build -trimpath -o $out/sparserun ./cmd/sparserun
rm -f $out/examples.json
$out/sparserun serve story="$data/stories260K" lenet="$(ls "$data"/lenet/*.onnx | head -1)" --addr 127.0.0.1:0 --grpc-addr 127.0.0.1:0 --dtype int8 --json >$out/examples.json 2>$out/examples.log &
pid=$!
trap 'kill $pid 2>/dev/null; wait $pid || true' EXIT
for _ in $(seq 200); do [ -s $out/examples.json ] && break; kill -0 $pid 2>/dev/null || { cat $out/examples.log; exit 1; }; sleep 0.1; done
field() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' $out/examples.json "$1"; }
go run ./examples/serve/client --url "$(field url)" --model story --chat=false --tokens 16 "Once upon a time"
$venv/bin/python examples/serve/python/openai_chat.py "$(field url)" story
$venv/bin/python examples/serve/python/triton_infer.py "$(field addr)" "$(field grpc_addr)" lenet
