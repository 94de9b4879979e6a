#!/usr/bin/env bash
# Builds the NCCL plug-in, libbeit_nccl.so, for ranks on GPUs: `make nccl`, or
#   LIBTORCH=…/site-packages/torch scripts/nccl.sh [OUT]      OUT: default target/release/libbeit_nccl.so, beside the binaries
# LIBTORCH is the libtorch 2.13 with CUDA that the trainer was built with. CUDA's and NCCL's headers are taken from CUDA_HOME (or
# /usr/local/cuda), then from the nvidia folder beside torch as pip installs it, and what is still missing from wheels, into .deps/.
# Needs g++, no GPU and no nvcc. Compiled with CUDA 13.0 and NCCL 2.29 headers; never yet run on a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'nccl: %s\n' "$*" >&2; exit 1; }

out=${1:-target/release/libbeit_nccl.so}
torch=${LIBTORCH:-.deps/torch}
[ -f "$torch/include/torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp" ] ||
  die "$torch has no libtorch headers; set LIBTORCH to the torch folder of an environment with torch 2.13, or run make setup"

wheels=.deps/cuda-headers
folders=()
for folder in "${CUDA_HOME:-/usr/local/cuda}/include" "$torch"/../nvidia/cu13/include "$torch"/../nvidia/nccl/include "$wheels"/nvidia/*/include; do
  [ -d "$folder" ] && folders+=("$folder")
done
# has HEADER: whether one of the folders, or the compiler's own, has it.
has() {
  local folder
  for folder in "${folders[@]}" /usr/include; do [ -f "$folder/$1" ] && return; done
  return 1
}

wanted=()
has cuda_runtime_api.h || wanted+=(nvidia-cuda-runtime==13.0.96)
has crt/host_config.h || wanted+=(nvidia-cuda-crt==13.0.88)
has nv/target || has cccl/nv/target || wanted+=(nvidia-cuda-cccl==13.0.85)
has nccl.h || wanted+=(nvidia-nccl-cu13==2.29.7)
if [ ${#wanted[@]} -gt 0 ]; then
  say "fetching headers: ${wanted[*]}"
  rm -rf "$wheels.part" && mkdir -p "$wheels.part" "$wheels"
  python3 -m pip download -q --disable-pip-version-check --no-deps -d "$wheels.part" --only-binary=:all: --python-version 3.11 \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux_2_18_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 "${wanted[@]}" ||
    die "the header wheels could not be fetched; install the CUDA toolkit and NCCL's headers, and set CUDA_HOME"
  for wheel in "$wheels.part"/*.whl; do
    python3 - "$wheel" "$wheels" <<'PY'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    for name in wheel.namelist():
        if '/include/' in name or name.endswith(('/METADATA', '/LICENSE')):
            wheel.extract(name, sys.argv[2])
PY
  done
  rm -rf "$wheels.part"
  for folder in "$wheels"/nvidia/*/include; do folders+=("$folder"); done
fi

includes=(-Itrainer/torch/csrc -I"$torch/include" -I"$torch/include/torch/csrc/api/include")
for folder in "${folders[@]}"; do
  includes+=(-I"$folder")
  if [ -d "$folder/cccl" ]; then includes+=(-I"$folder/cccl"); fi
done
includes+=(-idirafter trainer/torch/csrc/cuda_stub)

libraries=(-L"$torch/lib" "-Wl,-rpath,$(cd "$torch/lib" && pwd)" "-Wl,--no-as-needed" -ltorch_cpu -lc10 "-Wl,--allow-shlib-undefined")
if [ -f "$torch/lib/libtorch_cuda.so" ]; then
  libraries+=(-ltorch_cuda -lc10_cuda)
else
  say "$torch has no CUDA half: this checks that the plug-in compiles, but set LIBTORCH to one with CUDA for the real one"
fi

mkdir -p "$(dirname "$out")"
g++ -std=c++20 -O2 -fPIC -shared -w -DUSE_DISTRIBUTED -DUSE_C10D_NCCL "${includes[@]}" \
  trainer/torch/csrc/nccl/beit_nccl.cpp -o "$out.part" "${libraries[@]}"
mv "$out.part" "$out"
say "$out: put it beside beit-train and beit-daemon, or name it in BEIT_NCCL"
