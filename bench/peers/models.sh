#!/bin/sh
# Language models: sparserun beside llama.cpp, one interleaved run. Usage:
# bench/peers/models.sh [--threads 1,2] [--rounds 5]. `make demo` makes the pruned file.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
venv="$root/.venv-peers"
if [ ! -x "$venv/bin/python" ]; then python3 -m venv "$venv"; fi
"$venv/bin/python" -c 'import llama_cpp' 2>/dev/null || "$venv/bin/pip" install -q -r "$root/bench/peers/requirements.txt"
exec "$venv/bin/python" "$root/bench/peers/models.py" "$@"
