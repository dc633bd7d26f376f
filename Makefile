# Needs Python 3.11 or newer; everything else is installed into .venv, at the versions of
# constraints.txt. `make CONSTRAINTS= ...` takes the newest versions that fit instead.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
CONSTRAINTS ?= constraints.txt
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	$(if $(CONSTRAINTS),-c $(CONSTRAINTS))
CODE := kvgen tests examples docs benchmarks cli.py

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format clean

help:  ## say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## make .venv with kvgen, editable, and all it is developed with

# the build back end first, so that kvgen itself is built with the pinned one
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kvgen needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) hatchling editables
	$(PIP_INSTALL) --no-build-isolation --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## compile Gated DeltaNet and check it token by token, without a GPU
	$(BIN)/python examples/demo.py

test: $(STAMP)  ## run every test that needs no GPU
	$(BIN)/python -m pytest -n 2

lint: $(STAMP)  ## ruff and pyright
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/pyright

format: $(STAMP)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

clean:  ## remove caches, builds and .venv
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
