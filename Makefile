# Development commands: `make` lists them. The virtual environment .venv is created when it is first needed.

PYTHON ?= python3
VENV := .venv
SUDO := $(shell test $$(id -u) = 0 || echo sudo)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.demo-ready
NEEDS := constraints.txt pyproject.toml $(wildcard plugins/*/pyproject.toml examples/*/pyproject.toml)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
DOCS := README.md plugins/README.md $(wildcard docs/*.md docs/learn/*.md plugins/*/README.md examples/*/README.md)
# Tests run in parallel processes with one thread each: more threads would compete for the same cores. Two processes for
# each core, because a process waits for half of its time: for other processes, servers and the disk. At most eight: one
# takes up to 2 GB. A process without work takes tests from another one (worksteal).
CORES := $(shell getconf _NPROCESSORS_ONLN)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $$((2 * $(CORES))) --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long mutants fuzz check fix browser bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(READY) ## create the virtual environment .venv with all dependencies (the other targets do this when needed)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tfs needs Python 3.11 or later; set PYTHON: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV)

$(DEMO_READY): requirements-demo.txt $(NEEDS) | $(BIN)/python
	@echo "Setting up $(VENV): only once, one or two minutes, mostly PyTorch ..."
	@$(PIP) hatchling editables
	@$(PIP) --no-build-isolation -r requirements-demo.txt
	@touch $(DEMO_READY)

$(READY): requirements-dev.txt $(NEEDS) | $(BIN)/python
	@echo "Setting up $(VENV) with all dependencies: only once, one or two minutes, mostly PyTorch ..."
	@# hatchling and editables build the packages of tfs; setuptools and wheel build `future`, a dependency without a wheel
	@$(PIP) hatchling editables setuptools wheel
	@$(PIP) --no-build-isolation -r requirements-dev.txt
	@touch $(READY) $(DEMO_READY)

demo: $(DEMO_READY) ## train a small transformer on Python's sources and generate samples (two to four minutes)
	@$(BIN)/tfs run --config configs/quickstart.yaml

test: check ## run the checks, and the tests with a sample of every large matrix
	$(PYTEST) -m "not long"

test-long: check ## run the checks and all tests
	$(PYTEST)

check: $(READY) ## check style, types, generated docs and the size of the core
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/cog --check $(DOCS)
	$(BIN)/python benchmarks/core_size.py

fix: $(READY) ## format the code and regenerate the generated docs
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/cog -r $(DOCS)

mutants: $(READY) ## inject 300 small errors into the core and list those that no test detects (most of an hour)
	$(BIN)/python tests/mutants.py

fuzz: $(READY) ## mutate the files that tfs reads, and list crashes, hangs and writes outside (ten minutes; ARGS=--seed=1)
	$(BIN)/python tests/fuzz $(ARGS)

browser: ## install Chromium for the dashboard tests (Debian only; otherwise install it by hand)
	command -v chromium >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq chromium; }

bench: $(READY) ## run the benchmarks of benchmarks/README.md (minutes), except nanogpt_*, which need a copy of nanoGPT
	@for script in $(filter-out benchmarks/nanogpt_%,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## remove the virtual environment and caches, but not assets/, which contains your runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
