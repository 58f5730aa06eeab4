#!/usr/bin/env bash
# The main job: a real language model, pruned to 2:4, verified, and run dense beside
# sparse in one process. METHOD and PATTERN may be set; see README.
set -euo pipefail
cd "$(dirname "$0")/.."
model=models/SmolLM2-135M-Instruct.Q4_1.gguf
out=demo
mkdir -p $out
text=testdata/demo.txt
data=${SPARSERUN_DATA:-../shared/data}
if [ -f "$data/wikitext-2/test.txt" ]; then text=$data/wikitext-2/test.txt; fi

set -x
./sparserun prune $model -o $out/smollm2-2of4.safetensors --pattern 2:4 ${METHOD:+--method $METHOD}
./sparserun verify $out/smollm2-2of4.safetensors
./sparserun run $out/smollm2-2of4.safetensors --compare --baseline $model -p "The capital of France is" -n 48 --text "$text" --windows 4
./sparserun run $out/smollm2-2of4.safetensors --compare --dtype int8 -p "The capital of France is" -n 48
