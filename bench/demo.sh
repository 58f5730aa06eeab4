#!/usr/bin/env bash
# The main job: a real language model is pruned to 2:4, verified, and run dense beside
# sparse in one process, first in float16, then in int8. METHOD and WINDOWS (calibration
# sequences) may be set. Where the reference data is there, calibration and perplexity
# use WikiText-2 (different files); elsewhere the project's own documents and a story.
set -euo pipefail
cd "$(dirname "$0")/.."
model=models/SmolLM2-135M-Instruct.Q4_1.gguf
out=demo
mkdir -p $out
data=${SPARSERUN_DATA:-../shared/data}
text=testdata/demo.txt calib=$out/calibration.txt windows=${WINDOWS:-6} eval=1
if [ -f "$data/wikitext-2/test.txt" ]; then
  text=$data/wikitext-2/test.txt calib=$data/wikitext-2/valid.txt windows=${WINDOWS:-16} eval=4
else
  cat README.md docs/*.md >$calib
fi
prompt="The capital of France is"
method=${METHOD:-sparsegpt} calibrate=(--calib "$calib" --calib-windows "$windows")
case $method in magnitude | random | lamp) calibrate=() ;; esac # these look at no text

set -x
./sparserun prune $model -o $out/smollm2-2of4.safetensors --pattern 2:4 --method "$method" "${calibrate[@]}"
./sparserun verify $out/smollm2-2of4.safetensors
./sparserun run $out/smollm2-2of4.safetensors --compare --baseline $model -p "$prompt" -n 48 --text "$text" --windows $eval
./sparserun run $out/smollm2-2of4.safetensors --compare --dtype int8 -p "$prompt" -n 48
