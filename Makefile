# Two commands for a fresh machine (Rust, gcc/g++, make, Python 3 with pip): `make demo` and `make test`.
# Every target is idempotent, safe to interrupt, and works offline once `make setup` has run.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup tools build demo observe soak test validate lint doc loom miri fuzz nccl parity clean-demo

help: ## what can be typed here
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: ## fetch libtorch into .deps/ and the build tools
	@scripts/setup.sh

tools: ## promtool, a browser, shellcheck and node from Debian, npm packages in .deps/: for test, validate and observe
	@scripts/tools.sh

build: setup ## set-up and the release binaries, in target/release/
	cargo build --release --locked --workspace --bins

demo: build ## pack the demo photos, train a tiny BEiT on them, stop, resume: under two minutes once built
	@scripts/demo.sh

observe: build tools ## a demo run with Prometheus beside it, and how to import the dashboards; Ctrl-C ends both
	@scripts/observe.sh

test: build ## the whole test suite; installs what `make tools` does, if it can
	@scripts/test.sh

soak: build tools ## MINUTES (30) of training with KILLS (20), a full disk, a corrupt shard, a restarted Prometheus; a judgement in soak/; needs root
	python3 scripts/soak.py --minutes $(or $(MINUTES),30) --kills $(or $(KILLS),20)

validate: build tools ## shellcheck, promtool, tsc and others over scripts, Prometheus' files, Grafana's dashboards, docs/deploy
	@scripts/validate.sh

lint: setup ## rustfmt and clippy, as CI runs them
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings

doc: setup ## rustdoc, warnings are errors
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps --document-private-items

loom: setup ## model-check the batch ring (not part of `make test`: it rebuilds the loader)
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --release --locked -p beit-loader --lib ring

miri: ## interpret the tests of the ring, the kernels and the parsers with Miri; needs a nightly toolchain
	@scripts/miri.sh

fuzz: ## fuzz every target, each for FUZZ_SECONDS (default 60); not part of `make test`
	@scripts/fuzz.sh

nccl: ## build the NCCL plug-in for ranks on GPUs (LIBTORCH: a libtorch with CUDA; never yet run on a GPU)
	@scripts/nccl.sh

parity: build ## compare the trainer with PyTorch, transformers and timm from PyPI, at full size too; minutes, not part of `make test`
	@scripts/parity.sh

clean-demo: ## forget what `make demo` made
	rm -rf demo
