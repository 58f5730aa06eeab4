#!/usr/bin/env bash
# End to end without a GPU: the -tags cuda binary, through gorgonia.org/cu, on the
# simulated driver (cuda/ptxsim as libcuda.so.1). `make cuda-test` builds both first.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=./sparserun-cuda
sim=$PWD/cuda/build/sim
data=${SPARSERUN_DATA:-../shared/data}
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
fail() { echo "FAIL: $*"; exit 1; }
sim() { LD_LIBRARY_PATH=$sim "$@"; }

if [ ! -d "$data/stories260K" ]; then
  if [ "${CI:-}" = true ]; then fail "no reference data in $data"; fi
  echo "skipped: no reference data in $data (set SPARSERUN_DATA)"; exit 0
fi
$bin prune "$data/stories260K" -o "$tmp/24.safetensors" --pattern 2:4 --dtype f32 -q >/dev/null

n=0
ok() { n=$((n + 1)); echo "ok: $*"; }
for model in "$data/stories260K" "$tmp/24.safetensors"; do
  mode=off; [ "$model" = "$tmp/24.safetensors" ] && mode=nm24
  want=$($bin run "$model" -n 20 --dtype f32 --backend cpu --sparse $mode -q)
  got=$(sim $bin run "$model" -n 20 --dtype f32 --backend cuda --sparse $mode -q)
  [ "$want" = "$got" ] || fail "$model $mode: CPU wrote '$want', CUDA '$got'"
  ok "$mode f32: greedy text equals the CPU's"
done
want=$($bin run "$tmp/24.safetensors" -n 8 --dtype f16 --backend cpu --sparse nm24 -q)
for t in f16 bf16 int8 int4; do
  got=$(sim $bin run "$tmp/24.safetensors" -n 8 --dtype $t --backend cuda --sparse nm24 -q --json)
  grep -q '"nm24":35' <<<"$got" || fail "2:4 $t: $got"
  ok "2:4 $t runs"
done
got=$(sim $bin run "$tmp/24.safetensors" -n 8 --dtype f16 --backend cuda --sparse nm24 -q)
[ "$want" = "$got" ] || fail "2:4 f16: CPU wrote '$want', CUDA '$got'"
ok "2:4 f16: greedy text equals the CPU's"
sim $bin run "$tmp/24.safetensors" -n 4 --dtype f16 --backend cuda --sparse bitmask -q --json | grep -q '"bitmask":35' || fail "bitmask"
ok "bitmask f16 runs"

sim $bin bench --backend cuda --shapes 128x256 --dtypes f16,int8 --layouts dense,nm24,bitmask,csr --sparsity 0.9 --batch 1,16 --rounds 1 -q >"$tmp/bench"
grep -q 'simulated, not a speed' "$tmp/bench" || fail "bench does not say that its times are simulated: $(cat "$tmp/bench")"
ok "bench: $(grep -c 128x256 "$tmp/bench") rows, labelled: simulated, not a speed"

# Energy comes from NVML where that is: a stand-in that counts 1.5 J from reading to reading.
mkdir "$tmp/nvml"
cat >"$tmp/nvml/nvml.c" <<'EOF'
static unsigned long long mj = 7000000;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **dev) { *dev = &mj; return bus[0] == 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *dev, unsigned long long *out) { *out = *(unsigned long long *)dev += 1500; return 0; }
EOF
"${CC:-cc}" -shared -fPIC -Wl,-soname,libnvidia-ml.so.1 -o "$tmp/nvml/libnvidia-ml.so.1" "$tmp/nvml/nvml.c"
got=$(LD_LIBRARY_PATH=$sim:$tmp/nvml $bin run "$data/stories260K" -n 2 --backend cuda -q --json)
grep -q '"energy_joules": *1.5\b' <<<"$got" && grep -q nvml <<<"$got" || fail "energy: $got"
ok "energy by NVML: 1.5 J"

# Without a driver the same binary starts; auto falls back, cuda says why.
$bin run "$data/stories260K" -n 2 --backend auto >/dev/null 2>"$tmp/err" || fail "auto without a driver"
grep -q '^no GPU is used: ' "$tmp/err" || fail "auto does not say that no GPU is used: $(cat "$tmp/err")"
ok "no driver, auto: one line, then the CPU"
code=0; $bin run "$data/stories260K" -n 2 --backend cuda >/dev/null 2>"$tmp/err" || code=$?
[ $code = 1 ] && [ "$(wc -l <"$tmp/err")" = 1 ] || fail "cuda without a driver: exit $code, $(cat "$tmp/err")"
ok "no driver, cuda: $(cat "$tmp/err")"

# A network that is no language model: auto takes the CPU beside the GPU, cuda says why not.
net=$data/lenet/lenet300100_sparse.onnx
sim $bin run "$net" --backend auto >/dev/null 2>"$tmp/err" || fail "auto, network: $(cat "$tmp/err")"
grep -q 'runs on the CPU' "$tmp/err" || fail "auto does not say where the network runs: $(cat "$tmp/err")"
grep -q 'times are no speeds' "$tmp/err" || fail "the simulator is not named: $(cat "$tmp/err")"
code=0; sim $bin run "$net" --backend cuda -q >/dev/null 2>"$tmp/err" || code=$?
[ $code = 1 ] && [ "$(wc -l <"$tmp/err")" = 1 ] || fail "cuda, network: exit $code, $(cat "$tmp/err")"
ok "network: auto runs it on the CPU; cuda: $(cat "$tmp/err")"

# Faults of the driver become one clear line and exit code 1.
fault() {
  local name=$1 want=$2 code=0; shift 2
  env "$@" LD_LIBRARY_PATH="$sim" $bin run "$data/stories260K" -n 4 --backend cuda -q >/dev/null 2>"$tmp/err" || code=$?
  [ $code = 1 ] || fail "$name: exit $code: $(cat "$tmp/err")"
  grep -q "$want" "$tmp/err" || fail "$name: want '$want', got: $(cat "$tmp/err")"
  ok "$name: $(cat "$tmp/err")"
}
fault "pinned memory" OUT_OF_MEMORY PTXSIM_FAIL=cuMemHostAlloc:1:2
fault "small device" OUT_OF_MEMORY PTXSIM_MEM=1000000
fault "no device" "no CUDA device" PTXSIM_DEVICES=0
fault "old architecture" "architecture" PTXSIM_CC=7.5
fault "device lost" "LAUNCH_FAILED\|context lost" PTXSIM_FAIL=cuLaunchKernel:30:719
echo "$n passed, 0 failed"
