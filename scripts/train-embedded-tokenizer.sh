#!/usr/bin/env bash
# Makes shards/tokenizer/embedded/demo.safetensors from demo-photos/: about five minutes on one core.
# The same machine and libtorch give the same bytes; another processor gives other weights of the same quality.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${BEIT_SHARD:-target/release/beit-shard}" tokenizer train demo-photos \
  --vocab 512 --hidden 16 --groups 4 --px 112 --steps 800 --batch 16 --warmup 50 --crop-scale 0.08,1 \
  --threads 1 --precision bf16 --seed 0 --name demo \
  --about "a small tokenizer for trials, demos and tests, trained on ten photos; not for training a real BEiT" \
  --out shards/tokenizer/embedded/demo.safetensors --force --json "$@"
