#!/usr/bin/env bash
# kill -9 at N (default 200) random moments of a build, each followed by the same command again; ends with a line of counts.
#   scripts/kill-test.sh [N [SEED]]
set -euo pipefail
cd "$(dirname "$0")/.."
BEIT_KILLS=${1:-200} BEIT_KILL_SEED=${2:-2} exec cargo test --release --locked -p beit-tests --test it -- \
  --exact integrity::a_build_killed_at_many_moments_ends_with_the_same_bytes --ignored --nocapture
