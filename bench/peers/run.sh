#!/bin/sh
# Benchmarks sparserun's CPU kernels beside other libraries, all in one
# interleaved run. Usage: bench/peers/run.sh [arguments of kernels.py]
#
# Peers are installed once, pinned, into .venv-peers of the project root
# (ggml comes with llama-cpp-python, which pip compiles for this machine).
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
venv="$root/.venv-peers"
if [ ! -x "$venv/bin/python" ]; then
	python3 -m venv "$venv"
	"$venv/bin/pip" install -q -r "$root/bench/peers/requirements.txt"
fi
mkdir -p "$root/bench/out"
(cd "$root" && CGO_ENABLED=0 go build -o bench/out/kernelbench ./bench/peers/kernelbench)
exec "$venv/bin/python" "$root/bench/peers/kernels.py" --kernelbench "$root/bench/out/kernelbench" "$@"
