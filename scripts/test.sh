#!/usr/bin/env bash
# The whole test suite: unit, golden and doc tests of every room, then the house from the street.
# BEIT_WITHOUT_TOOLS=1 leaves out the tests that need promtool, a browser or node (scripts/tools.sh says what that is).
set -euo pipefail
cd "$(dirname "$0")/.."
without=()
skip=()
if [ "${BEIT_WITHOUT_TOOLS-}" = 1 ]; then
  echo "tests: BEIT_WITHOUT_TOOLS=1: the tests that need real tools are left out" >&2
  without=(-E 'not (binary(it) and test(/^(dashboards::tools|page)::|^metrics::a_scrape_tells/))')
  skip=(-- --skip dashboards::tools:: --skip page:: --skip metrics::a_scrape_tells)
else
  scripts/tools.sh
fi
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --release --locked --workspace --no-fail-fast "${without[@]}"
  cargo test --release --locked --workspace --doc -q
else # a fresh machine: cargo's own runner does as well, with less to look at
  cargo test --release --locked --workspace --no-fail-fast "${skip[@]}"
fi
