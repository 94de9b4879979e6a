#!/usr/bin/env bash
# Fuzzes one target after the other, one process at a time, each for FUZZ_SECONDS (default 60), with libFuzzer and
# AddressSanitizer on the toolchain at hand (RUSTC_BOOTSTRAP=1: no nightly, no cargo-fuzz needed).
#   scripts/fuzz.sh                        every target of every room
#   scripts/fuzz.sh shards/format          every target of one room
#   scripts/fuzz.sh shards/format shard    one target
# Committed inputs lie in ROOM/fuzz/corpus/TARGET, and those of longer runs in ROOM/fuzz/corpus/TARGET.tar.gz; what is
# found beyond them is kept in ROOM/fuzz/grown/TARGET. To commit it: TARGET -merge=1 NEW corpus/TARGET grown/TARGET.
# A finding ends the run with its file under ROOM/fuzz/artifacts/.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-60}
target_dir=${FUZZ_TARGET_DIR:-target/fuzz}
mkdir -p "$target_dir"
target_dir=$(cd "$target_dir" && pwd)
triple=x86_64-unknown-linux-gnu

if [ $# -gt 0 ]; then rooms=("$1"); else rooms=(shards/*/fuzz); rooms=("${rooms[@]%/fuzz}"); fi
for room in "${rooms[@]}"; do
  fuzz=$room/fuzz
  [ -f "$fuzz/Cargo.toml" ] || { echo "fuzz: $room has no fuzz/Cargo.toml" >&2; exit 2; }
  if [ $# -gt 1 ]; then targets=("$2"); else
    targets=("$fuzz"/fuzz_targets/*.rs); targets=("${targets[@]##*/}"); targets=("${targets[@]%.rs}")
  fi
  # The flags that cargo-fuzz passes; --target keeps build scripts free of the sanitizer.
  flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
  flags+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
  flags+=" --cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Zsanitizer=address"
  RUSTC_BOOTSTRAP=1 RUSTFLAGS="$flags" CARGO_TARGET_DIR="$target_dir" \
    cargo build -q --release --manifest-path "$fuzz/Cargo.toml" --target $triple --bins
  for target in "${targets[@]}"; do
    mkdir -p "$fuzz/corpus/$target" "$fuzz/grown/$target" "$fuzz/artifacts/$target"
    if [ -f "$fuzz/corpus/$target.tar.gz" ] && [ -z "$(ls -A "$fuzz/grown/$target")" ]; then
      tar -xzf "$fuzz/corpus/$target.tar.gz" -C "$fuzz/grown/$target"
    fi
    echo "== $room: $target, $seconds s"
    log=$fuzz/artifacts/$target.log
    if ! "$target_dir/$triple/release/$target" -max_total_time="$seconds" -print_final_stats=1 -rss_limit_mb=2048 \
      -timeout=20 -max_len="${FUZZ_MAX_LEN:-65536}" -artifact_prefix="$fuzz/artifacts/$target/" \
      "$fuzz/grown/$target" "$fuzz/corpus/$target" 2>"$log"; then
      tail -n 40 "$log" >&2
      echo "fuzz: $room: $target found something; see $fuzz/artifacts/$target/" >&2
      exit 1
    fi
    grep -E 'stat::number_of_executed_units|stat::average_exec_per_sec|stat::new_units_added' "$log"
    grep -E ' cov: ' "$log" | tail -n 1
  done
done
