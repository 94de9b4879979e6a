#!/usr/bin/env bash
# The whole test suite: unit, golden and doc tests of every room, then the house from the street.
set -euo pipefail
cd "$(dirname "$0")/.."
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --release --locked --workspace --no-fail-fast
  cargo test --release --locked --workspace --doc -q
else # a fresh machine: cargo's own runner does as well, with less to look at
  cargo test --release --locked --workspace --no-fail-fast
fi
