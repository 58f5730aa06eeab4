#!/bin/bash
# Prints where a headless Chromium is, installing Debian's where there is none.
set -euo pipefail
for c in chromium-headless-shell chromium google-chrome; do if command -v $c; then exit; fi; done
{ apt-get install -y -qq --no-install-recommends chromium-headless-shell fonts-dejavu-core ||
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium-headless-shell fonts-dejavu-core; }; } >/dev/null 2>&1 ||
  { echo "chromium: not on PATH, and apt-get install chromium-headless-shell failed" >&2; exit 1; }
command -v chromium-headless-shell
