# Everything a person types here. `make` alone lists it; set-up happens once, by itself, in .venv.

PYTHON ?= python3
VENV := .venv
SUDO := $(shell test $$(id -u) = 0 || echo sudo)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.demo-ready
NEEDS := constraints.txt pyproject.toml $(wildcard plugins/*/pyproject.toml examples/*/pyproject.toml)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
DOCS := README.md plugins/README.md $(wildcard docs/*.md docs/learn/*.md plugins/*/README.md examples/*/README.md)
# Tests run side by side, one thread each: more threads would only fight over the same cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long check fix browser bench clean

help: ## list what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(READY) ## a virtual environment in .venv with everything in it (the other targets do it themselves)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tfs needs Python 3.11 or later; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV)

$(DEMO_READY): requirements-demo.txt $(NEEDS) | $(BIN)/python
	@echo "Setting up $(VENV): once, a minute or two, most of it PyTorch ..."
	@$(PIP) hatchling editables
	@$(PIP) --no-build-isolation -r requirements-demo.txt
	@touch $(DEMO_READY)

$(READY): requirements-dev.txt $(NEEDS) | $(BIN)/python
	@echo "Setting up $(VENV) with everything in it: once, a minute or two, most of it PyTorch ..."
	@# hatchling and editables build tfs's own packages; the others build `future`, which one dependency needs and which comes as source
	@$(PIP) hatchling editables setuptools wheel
	@$(PIP) --no-build-isolation -r requirements-dev.txt
	@touch $(READY) $(DEMO_READY)

demo: $(DEMO_READY) ## train a small transformer on Python's own sources, and let it write some (two to four minutes)
	@$(BIN)/tfs run --config configs/quickstart.yaml

test: check ## the checks, and the tests with a sample of every large matrix
	$(PYTEST) -m "not long"

test-long: check ## the checks, and every test there is
	$(PYTEST)

check: $(READY) ## style, types, generated docs, the size of the core
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/cog --check $(DOCS)
	$(BIN)/python benchmarks/core_size.py

fix: $(READY) ## format the code and bring the generated docs up to date
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/cog -r $(DOCS)

browser: ## Chromium, for the tests that look at the dashboard (Debian; elsewhere install it as you do)
	command -v chromium >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq chromium; }

bench: $(READY) ## measure what benchmarks/README.md promises (minutes; each prints a ratio), but for nanogpt_*: those need its folder
	@for script in $(filter-out benchmarks/nanogpt_%,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## remove the virtual environment and caches (assets/ stays: it holds your runs)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
