#!/usr/bin/env bash
# Compares the trainer with PyTorch, transformers and timm from PyPI: models, their gradients, and what other scripts in
# tests/parity add. Makes a virtual environment of its own (.deps/parity, about 1 GB). PARITY_LARGE=1 also makes the large models,
# which take about 5 GB of memory. Minutes; not part of `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.deps/parity
if [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
fi
"$venv/bin/pip" install -q torch==2.13.0 torchvision==0.28.0 transformers==5.23.0 timm==1.0.31 safetensors==0.8.0 \
  tensorboard==2.21.0 numpy
cargo build --release --locked -p beit-trainer --bin beit-train
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$venv/bin/python" tests/parity/models.py --gradients "$work" --work "$work" ${PARITY_LARGE:+--large}
# The same weights' gradients, and the first weights of base and large, in Rust.
BEIT_PARITY="$work" cargo test --release --locked -p beit-trainer --lib -- --ignored --nocapture full_size
