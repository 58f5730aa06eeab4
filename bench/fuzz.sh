#!/usr/bin/env bash
# Runs every fuzz target of the module for a fixed time (default 10s).
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-10s}
grep -rl --include=*_test.go '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r pkg; do
  for f in $(grep -h -o '^func Fuzz[A-Za-z0-9_]*' "$pkg"/*_test.go | sed 's/func //'); do
    echo "$pkg $f"
    run() { go test "$pkg" -run '^$' -fuzz "^$f\$" -fuzztime "$time" -parallel 2 >/tmp/fuzz.$$ 2>&1; }
    # The fuzzer of Go itself fails now and then when its time is over in the middle of an
    # input ("context deadline exceeded", and no input written): that is no finding.
    run || { grep -q 'context deadline exceeded' /tmp/fuzz.$$ && ! grep -q 'Failing input' /tmp/fuzz.$$ && run; } ||
      { cat /tmp/fuzz.$$; rm -f /tmp/fuzz.$$; exit 1; }
  done
done
rm -f /tmp/fuzz.$$
