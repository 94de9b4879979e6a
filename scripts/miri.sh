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
# Files are read (fixtures) and written (temporary folders); rustix casts an integer to a pointer for a futex; properties are
# tried a few times only.
export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-permissive-provenance ${MIRIFLAGS:-}" PROPTEST_CASES=${PROPTEST_CASES:-4} PROPTEST_DISABLE_FAILURE_PERSISTENCE=true
# Miri takes a vector unit to be there when the target says so: the kernels for AVX2 are interpreted too.
export RUSTFLAGS="-Ctarget-feature=+avx2,+bmi1,+bmi2" CARGO_TARGET_DIR=target/miri CARGO_INCREMENTAL=0
miri() {
  local package=$1 targets=$2
  shift 2
  echo "== $package"
  # shellcheck disable=SC2086 # several targets
  cargo +nightly miri test --locked -p "$package" $targets -- -Zunstable-options --report-time --test-threads 1 "$@" \
    2> >(grep -v "opt-level is ignored" >&2)
}
for room in ${1:-loader format views torchfile}; do
  case $room in
    # The ring and its slots, which share memory between threads; the loader around them maps files and decodes JPEGs.
    loader) miri beit-loader --lib ring:: slot:: --skip quarter_million --skip sleepers ;;
    # Bytes become records and tokens; the rest of the room is maps, LMDB and zstd.
    format)
      miri beit-shards --lib codec:: text:: --skip undoes
      miri beit-shards "--test it" damaged_shards_are_refused_or_read_at_offsets
      ;;
    # Kernels in plain Rust and for AVX2, the region decoder, containers of images.
    views) miri beit-views --lib kernels:: region:: image:: ;;
    # Pickles, zip and legacy containers; there is no unsafe code of ours, so this is for what it rests on.
    torchfile) miri beit-torchfile "--lib --test it" dtype:: tensor:: pickle:: fixtures:: ;;
    *) echo "miri: no room $room; there are loader, format, views, torchfile" >&2; exit 2 ;;
  esac
done
