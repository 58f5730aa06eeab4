#!/bin/sh
# Benchmarks sparserun's CPU kernels beside other libraries, all in one
# interleaved run. Usage: bench/peers/run.sh [arguments of kernels.py], for example
# --shapes 4096x4096,768x3072 --threads 1,2 --batch 1,128,512 --json FILE.
#
# Peers are installed once, pinned, into .venv-peers of the project root
# (ggml comes with llama-cpp-python, which pip compiles for this machine; GGML_LIB
# names a folder with ggml's shared libraries instead). DeepSparse 1.8 wants Python
# 3.10: where one is found it goes into .venv-deepsparse.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
venv="$root/.venv-peers"
if [ ! -x "$venv/bin/python" ]; then
	python3 -m venv "$venv"
	"$venv/bin/pip" install -q -r "$root/bench/peers/requirements.txt"
fi
old="$root/.venv-deepsparse"
if [ ! -d "$old" ]; then
	for p in python3.10 "$HOME"/.pyenv/versions/3.10.*/bin/python3.10; do
		"$p" -c 'import sys; assert sys.version_info[:2] == (3, 10)' 2>/dev/null || continue
		"$p" -m venv "$old" && "$old/bin/pip" install -q deepsparse==1.8.0 ||
			echo "deepsparse 1.8.0 cannot be installed here: not measured" >&2
		break
	done
fi
mkdir -p "$root/bench/out"
(cd "$root" && CGO_ENABLED=0 go build -o bench/out/kernelbench ./bench/peers/kernelbench)
exec "$venv/bin/python" "$root/bench/peers/kernels.py" --kernelbench "$root/bench/out/kernelbench" "$@"
