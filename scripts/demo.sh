#!/usr/bin/env bash
# From photos to a trained (tiny) BEiT, as a new user would do it; everything lands in demo/.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=target/release
out=demo
shards=$out/photos.shards
run=$out/run
recipe=pretrain-tiny-cpu
daemon=

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '  $ %s\n' "$*"; }
cleanup() { if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then kill -TERM "$daemon"; wait "$daemon" || true; fi; }
trap cleanup EXIT
trap 'exit 130' INT TERM

started=$SECONDS
rm -rf "$run" "$shards" # from an earlier demo, maybe of another version
mkdir -p "$out"

say "1. Pack ten photos into shards: 8 views of each, with their dVAE tokens"
show "beit-shard build demo-photos --out $shards --tokenizer embedded --views 8"
$bin/beit-shard build demo-photos --out $shards --tokenizer embedded --views 8
$bin/beit-shard verify $shards

say "2. Train a tiny BEiT on two CPU ranks, with /metrics beside it"
show "beit-daemon start --device cpu --ranks 2 --shards $shards --recipe $recipe --run $run"
$bin/beit-daemon start --device cpu --ranks 2 --shards $shards --recipe $recipe --run $run --listen 127.0.0.1:0 &
daemon=$!
field() { $bin/beit-daemon status --run $run --json 2>/dev/null | python3 -c "import json,sys; print(json.load(sys.stdin).get('$1') or '')" 2>/dev/null || true; }
total=$(python3 - "recipes/$recipe.toml" <<'PY'
import re, sys
print(re.search(r'^steps\s*=\s*(\d+)', open(sys.argv[1]).read(), re.M).group(1))
PY
)
half=$((total / 2))
while :; do
  kill -0 "$daemon" 2>/dev/null || { wait "$daemon" || true; daemon=; echo "the daemon stopped early; see $run/" >&2; exit 1; }
  step=$(field step)
  [ "${step:-0}" -ge "$half" ] && break
  sleep 0.5
done
address=$(field address)
say "   The page is at $address/ and the metrics at $address/metrics; a sample of them now:"
python3 - "$address/metrics" <<'PY'
import sys, urllib.request
wanted = ('beit_trainer_step ', 'beit_trainer_loss ', 'beit_trainer_mlm_acc', 'beit_trainer_lr ', 'beit_trainer_samples_',
          'beit_trainer_data_wait_seconds_sum', 'beit_loader_queue_depth', 'beit_trainer_checkpoint_step')
lines = urllib.request.urlopen(sys.argv[1], timeout=10).read().decode().splitlines()
sample = [line for line in lines if line.startswith(wanted)]
print(*('    ' + line for line in sample), sep='\n')
assert len(sample) >= len(wanted), 'the metrics have other names than this script'
PY

say "3. Stop it: it checkpoints, then exits"
show "beit-daemon stop --run $run"
$bin/beit-daemon stop --run $run
wait "$daemon" || true
daemon=
(cd "$run/checkpoints" && printf '    %s\n' *)

say "4. Type the same command again: it resumes in the middle of the epoch and finishes"
show "beit-daemon start --device cpu --ranks 2 --shards $shards --recipe $recipe --run $run"
$bin/beit-daemon start --device cpu --ranks 2 --shards $shards --recipe $recipe --run $run --listen 127.0.0.1:0

say "Done in $((SECONDS - started)) s: 10 photos packed and checked, $total steps trained with one stop and one resume."
cat <<EOT
  The checkpoint:   $run/checkpoints/ (model.safetensors and the rest)
  A training view:  $bin/beit-shard cat 0 --shards $shards --view 3 --out $out/view.png
  On your images:   $bin/beit-shard build imagenet22k/        (with OpenAI's tokenizer; --help says where to get it)
                    $bin/beit-daemon start --gpus 16
  The demo tokenizer learned from ten photos and is for trying things only.
EOT
