#!/usr/bin/env bash
# Runs, under Miri, the tests of what Miri can interpret: no foreign code (libjpeg-turbo, LMDB, zstd), no memory maps.
# Undefined behaviour, data races, leaks and accesses out of bounds end it with a report. Not part of `make test`.
#   scripts/miri.sh                 every room below
#   scripts/miri.sh views           one room: loader, format, views or torchfile
# Needs a nightly toolchain with the components miri and rust-src; tests that cannot run say why: cfg_attr(miri, ignore).
set -euo pipefail
cd "$(dirname "$0")/.."
if ! cargo +nightly miri --version >/dev/null 2>&1; then
  echo "miri: no nightly toolchain with Miri here; get it with" >&2
  echo "  rustup toolchain install nightly --profile minimal --component miri --component rust-src" >&2
  exit 2
fi
# Files are read (fixtures) and written (temporary folders); properties are tried a few times only.
export MIRIFLAGS="-Zmiri-disable-isolation ${MIRIFLAGS:-}" PROPTEST_CASES=${PROPTEST_CASES:-4} PROPTEST_DISABLE_FAILURE_PERSISTENCE=true
# Miri takes a vector unit to be there when the target says so: the kernels for AVX2 are interpreted too.
export RUSTFLAGS="-Ctarget-feature=+avx2,+bmi1,+bmi2" CARGO_TARGET_DIR=target/miri CARGO_INCREMENTAL=0
miri() {
  echo "== $1"
  shift
  cargo +nightly miri test -q --locked "$@" -- -Zunstable-options --report-time --test-threads 1 2>&1 | grep -v "opt-level is ignored"
}
rooms=${1:-loader format views torchfile}
for room in $rooms; do
  case $room in
    loader) miri loader -p beit-loader --lib ;;
    format) miri "shards/format" -p beit-shards --lib --test it ;;
    views) miri "shards/views" -p beit-views --lib ;;
    torchfile) miri "shards/torchfile" -p beit-torchfile --lib --test it ;;
    *) echo "miri: no room $room; there are loader, format, views, torchfile" >&2; exit 2 ;;
  esac
done
