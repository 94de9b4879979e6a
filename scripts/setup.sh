#!/usr/bin/env bash
# Everything a build needs beside Rust, gcc/g++, make and Python 3 with pip, in ./.deps:
# CPU libtorch 2.13.0 for tch 0.26 (540 MB down, 490 MB kept), cmake and nasm for libjpeg-turbo.
# Idempotent; safe to interrupt (a set-up is complete only when its stamp file is there); offline once done.
set -euo pipefail
cd "$(dirname "$0")/.."
deps=.deps
torch_version=2.13.0

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'set-up: %s\n' "$*" >&2; exit 1; }

need() { command -v "$1" >/dev/null 2>&1 || die "$1 is missing; $2"; }
need cargo "install Rust 1.95 or newer (rustup.rs)"
need g++ "install a C++ compiler (Debian: apt-get install g++)"
need python3 "install Python 3 with pip (Debian: apt-get install python3-pip)"
[ "$(uname -sm)" = "Linux x86_64" ] || die "only Linux on x86_64 is supported (this is $(uname -sm))"

tools() {
  local missing=()
  for tool in cmake nasm; do command -v "$tool" >/dev/null 2>&1 || missing+=("$tool"); done
  [ ${#missing[@]} -eq 0 ] && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
      { apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null; } ||
      die "apt-get could not install ${missing[*]}; install them by hand and run this again"
  else
    die "${missing[*]} missing (libjpeg-turbo is built with them); install them (Debian: sudo apt-get install ${missing[*]}) and run this again"
  fi
}

# A wheel of torch holds libtorch; only the members that a CPU build links are kept.
libtorch() {
  local stamp="$deps/torch/build-version"
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$torch_version" ] && return
  python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip (Debian: apt-get install python3-pip)"
  say "fetching libtorch $torch_version (540 MB, once)"
  local wheels="$deps/wheels"
  mkdir -p "$wheels"
  python3 -m pip download -q --disable-pip-version-check --no-deps -d "$wheels" --only-binary=:all: --python-version 3.11 \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    "torch==$torch_version" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85 ||
    die "the wheels could not be fetched (is the package registry reachable? is there 1.2 GB of room?)"
  say "unpacking libtorch"
  rm -rf "$deps/torch" "$deps/nvidia" "$deps/unpack"
  mkdir -p "$deps/unpack"
  python3 - "$wheels" "$deps/unpack" <<'PY'
import glob, os, sys, zipfile
wheels, out = sys.argv[1:]
keep = {'libc10.so', 'libtorch_cpu.so', 'libgomp.so.1'}
for wheel in glob.glob(wheels + '/*.whl'):
    with zipfile.ZipFile(wheel) as z:
        for i in z.infolist():
            name, base = i.filename, os.path.basename(i.filename)
            if (name.startswith('torch/include/') or (name.startswith('torch/lib/') and base in keep)
                    or base in ('libcudart.so.13', 'libcupti.so.13') or name.endswith(('/METADATA', '/LICENSE'))):
                z.extract(i, out)
PY
  # torch-sys passes -ltorch; the wheel's own libtorch.so needs libtorch_cuda.so, so a linker script stands in.
  echo 'INPUT ( libtorch_cpu.so )' > "$deps/unpack/torch/lib/libtorch.so"
  mv "$deps/unpack/nvidia" "$deps/nvidia"
  mv "$deps/unpack/torch" "$deps/torch"
  rm -rf "$deps/unpack" "$wheels"
  echo "$torch_version" > "$stamp" # torch-sys checks this file; written last, it says the set-up is whole
}

tools
libtorch
