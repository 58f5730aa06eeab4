#!/usr/bin/env bash
# Measures everything that docs/cpu.md and README.md show of speed on a CPU, in one
# go, on a machine that does nothing else for about ten minutes: kernels beside
# peers, whole models beside llama.cpp, ONNX networks beside onnxruntime, and the
# sweep of `sparserun bench`. Tables go to bench/out/quiet/*.md, numbers to *.json.
#
#   bench/quiet.sh          about ten minutes on two cores
#   bench/quiet.sh --short  one shape, one round: does it work?
#
# Parts that are not installed are named and left out. RUN goes before every
# measurement (default: chrt -f 10 where that is allowed). ONNX_PYTHON is a Python
# with onnxruntime and numpy (default: that of the peers).
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD out=$PWD/bench/out/quiet short=${1:-}
mkdir -p "$out"
data=${SPARSERUN_DATA:-../shared/data}
run=${RUN-$(chrt -f 10 true 2>/dev/null && echo chrt -f 10)}
kernels=(--shapes 4096x4096,11008x4096,2048x2048,768x3072 --batch 1,128,512 --threads 1,2 --rounds 5 --cold 96 --ms 8)
rounds=3 sweep=(--shapes 4096x4096 --dtypes f32,f16,int8 --batch 1,128 --rounds 5 --cold 96)
if [ "$short" = --short ]; then
	kernels=(--shapes 768x3072 --batch 1,128 --threads 1 --rounds 1 --cold 16 --ms 2)
	rounds=1 sweep=(--shapes 768x3072 --dtypes f16,int8 --batch 1 --rounds 1 --cold 16)
fi
part() { # part NAME COMMAND...: the command's output is NAME.md
	local name=$1 start=$SECONDS
	shift
	if $run "$@" >"$out/$name.md.part" 2>"$out/$name.log"; then
		mv "$out/$name.md.part" "$out/$name.md"
		echo "$name: $((SECONDS - start)) s, $out/$name.md" >&2
	else
		echo "$name: failed or not installed, see $out/$name.log" >&2
	fi
}
make -s build || exit 1
CGO_ENABLED=0 go build -o bench/out/onnxbench ./bench/onnx
{ date -u +'%Y-%m-%d %H:%M UTC'; git rev-parse --short HEAD; uptime; lscpu | grep -E 'Model name|^CPU\(s\)|L[123]|Flags' | sed 's/Flags:.*\(avx512_vnni\).*/Flags: ... \1/'; } >"$out/machine.txt"
part kernels bench/peers/run.sh "${kernels[@]}" --json "$out/kernels.json"
part models bench/peers/models.sh --rounds $rounds --out "$out/models.json"
part onnx "${ONNX_PYTHON:-.venv-peers/bin/python}" bench/onnx/compare.py bench/out/onnxbench "$data" $rounds
part sweep ./sparserun bench -t 1 "${sweep[@]}" --out "$out/sweep"
uptime >>"$out/machine.txt"
cat "$out/machine.txt" >&2
