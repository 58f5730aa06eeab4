#!/bin/sh
# The server beside llama.cpp's, same model, same load, interleaved. Usage:
# bench/serve/compare.sh [--rounds 3] [--tokens 64]. `make demo` makes the pruned file.
# PYTHONPATH may name a llama_cpp built for this machine; else PyPI's is used.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
venv="$root/.venv-peers"
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -c 'import llama_cpp' 2>/dev/null || "$venv/bin/pip" install -q --disable-pip-version-check -r bench/peers/requirements.txt
"$venv/bin/python" -c 'import fastapi, uvicorn, sse_starlette, starlette_context, pydantic_settings' 2>/dev/null ||
  "$venv/bin/pip" install -q --disable-pip-version-check -r bench/serve/requirements-llama.txt
mkdir -p bench/out/serve
go build -o bench/out/serve/load ./bench/serve
CGO_ENABLED=0 go build -trimpath -o bench/out/serve/sparserun ./cmd/sparserun
exec "$venv/bin/python" bench/serve/compare.py "$@"
