#!/usr/bin/env bash
# The trainer beside PyTorch, transformers, timm, torchrun and tensorboard from PyPI: models and their gradients, schedules, FLOPs,
# fifty steps each of three models, ranks, event files. Makes a virtual environment of its own (.deps/parity, 5 GB with the CUDA libraries
# that PyTorch's package brings); PYTHON=V/bin/python uses another that has the packages below. PARITY_LARGE=1 also makes the large
# models (5 GB of memory). A quarter of an hour on two cores; not part of `make test`. Files land in PARITY_DIR (default: target/parity).
set -euo pipefail
cd "$(dirname "$0")/.."
packages=(torch==2.13.0 torchvision==0.28.0 transformers==5.23.0 timm==1.0.31 safetensors==0.8.0 tensorboard==2.21.0 numpy)
python=${PYTHON:-.deps/parity/bin/python}
if [ -z "${PYTHON:-}" ]; then
  [ -x "$python" ] || python3 -m venv .deps/parity
  "$python" -m pip install -q "${packages[@]}"
fi
out=${PARITY_DIR:-target/parity}
bin=target/release
mkdir -p "$out"
out=$(cd "$out" && pwd)

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
# Every word of the output that is a number of a test must be in that test.
held() { # FILE PATTERN
  while read -r word; do
    tr -d _ <"$1" | grep -qF -- "$word" || { echo "$1 does not hold $word" >&2; exit 1; }
    echo "  $1 holds $word"
  done < <(grep -oE "$2")
}

say "Schedules of published runs, all steps"
"$python" tests/parity/schedules.py | held trainer/src/schedule/tests.rs '0x[0-9a-f]{16}'
say "FLOPs by torch.utils.flop_counter"
"$python" tests/parity/flops.py | held trainer/src/model/flops.rs '[0-9]{6,}'

say "Models of transformers and timm, both ways, and their gradients"
rm -rf "$out/models" && mkdir "$out/models"
"$python" tests/parity/models.py --gradients "$out/models" --work "$out/models" ${PARITY_LARGE:+--large}
# The same weights' gradients, and the first weights of base and large, in Rust.
BEIT_PARITY="$out/models" cargo test --release --locked -p beit-trainer --lib -- --ignored --nocapture full_size
rm -rf "$out/models"

[ -e "$out/photos.shards/manifest.txt" ] || $bin/beit-shard build demo-photos --out "$out/photos.shards" --tokenizer embedded --views 8
compare() { # NAME WHAT OPTIONS…
  say "$2"
  rm -rf "${out:?}/$1"
  "$python" tests/parity/train_like_pytorch.py --bin $bin --shards "$out/photos.shards" --work "$out/$1" --threads 2 -- "${@:3}" 2>"$out/$1.log" ||
    { tail -n 20 "$out/$1.log" >&2; exit 1; }
  rm -rf "$out/$1/batches" # by far the largest
}
compare tiny "Fifty steps of the demo's model" --recipe pretrain-tiny-cpu --set steps=50
compare parts "The same by 2 ranks with 2 micro-batches of 2 each, weight decay rising" \
  --recipe pretrain-tiny-cpu --set steps=50 --set batch_size=2 --set update_freq=2 --set weight_decay_end=0.2 --ranks 2
compare middle "Fifty steps of 6 layers, width 384, with absolute positions beside the bias" \
  --recipe pretrain-tiny-cpu --set steps=50 --set embed_dim=384 --set depth=6 --set num_heads=6 --set abs_pos_emb=true --set lr=5e-4

say "torchrun: two processes, a kill, a hang, two network namespaces"
"$python" tests/parity/torchrun.py --bin $bin

say "TensorBoard reads our event files"
rm -rf "$out/tb" "$out/tb.run"
$bin/beit-train run --recipe pretrain-tiny-cpu --steps 12 --set warmup_steps=3 --set "log_dir=$out/tb" --shards "$out/photos.shards" --run "$out/tb.run" 2>"$out/tb.log"
"$python" tests/parity/read_tensorboard.py "$out/tb" "$out/tb.run"
say "Equal."
