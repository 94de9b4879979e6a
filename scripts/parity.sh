#!/usr/bin/env bash
# The trainer beside plain PyTorch: schedules, FLOPs, and fifty steps each of three models. PYTHON must have torch, numpy and safetensors;
# three minutes on two quiet cores. Everything lands in the folder PARITY_DIR (default: target/parity).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${PARITY_DIR:-target/parity}
bin=target/release
mkdir -p "$out"
"$python" -c 'import numpy, safetensors, torch' || {
  echo "PYTHON=$python lacks what this needs: python3 -m venv V && V/bin/pip install torch numpy safetensors && make parity PYTHON=V/bin/python" >&2
  exit 1
}

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
say "Equal."
