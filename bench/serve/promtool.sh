#!/bin/bash
# Prints where promtool is: on PATH, in .venv-serve, or unpacked there from Debian's
# prometheus package. It needs no root for that.
set -euo pipefail
cd "$(dirname "$0")/../.."
if command -v promtool; then exit; fi
tool=$PWD/.venv-serve/promtool
if [ ! -x "$tool" ]; then
  tmp=$(mktemp -d)
  trap 'rm -rf "$tmp"' EXIT
  (cd "$tmp" && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } >log 2>&1 && dpkg -x prometheus_*.deb x) ||
    { echo "promtool: not on PATH, and apt-get download prometheus failed: $(tail -1 "$tmp/log")" >&2; exit 1; }
  mkdir -p .venv-serve
  cp "$tmp/x/usr/bin/promtool" "$tool"
fi
echo "$tool"
