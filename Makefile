# Needs Python 3.11 or newer; everything else is installed into .venv, at the versions of
# constraints.txt. `make CONSTRAINTS= ...` takes the newest versions that fit instead.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
CONSTRAINTS ?= constraints.txt
VENV := .venv
BIN := $(VENV)/bin
# .venv has what runs modules, then what kvgen is developed with
RUNS := $(VENV)/.runs
STAMP := $(VENV)/.installed
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
PINNED := $(BIN)/python $(PIP_INSTALL) $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
NEWEST := .venv-newest
# which torch `make newest` takes: the newest that fits the newest Triton. A build for the CPU asks
# for no Triton of its own: where pip finds one, it fits, and a build for CUDA need not
TORCH ?= torch
# the environments of the servers whose integrations are tested, by engine. What each has stands in
# tests/engines/<environment>.txt; in <environment>-bare.txt what is installed without all that it
# asks for, in <environment>-after.txt what then goes over that, and in <environment>-without.txt
# what goes away; tests/engines/<engine> is run, and what is named here
ENVIRONMENTS_vllm := vllm
ENVIRONMENTS_sglang := sglang
ENVIRONMENTS_transformers := transformers-oldest transformers-newest
TESTS_transformers := tests/integrations/transformers/test_transformers.py
ENGINES := vllm transformers sglang
ENGINE ?= $(ENGINES)
CODE := kvgen tests examples docs benchmarks cli.py

.DEFAULT_GOAL := help
.SECONDEXPANSION:
.PHONY: help install demo test newest test-engines lint format clean

help:  ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## make .venv with kvgen, editable, and all it is developed with

# the build back end first, so that kvgen itself is built with the pinned one
$(RUNS): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kvgen needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PINNED) hatchling editables
	$(PINNED) --no-build-isolation --editable '.[run]'
	@touch $@

$(STAMP): $(RUNS)
	$(PINNED) --no-build-isolation --editable '.[dev]'
	@touch $@

demo: $(RUNS)  ## decode with Gated DeltaNet, token by token, without a GPU: what the buffer is for
	$(BIN)/python examples/demo.py

test: $(STAMP)  ## run every test that needs no GPU
	$(BIN)/python -m pytest -n 2

newest:  ## some of the tests with the newest Triton, torch, NumPy and Transformers
	test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python $(PIP_INSTALL) --upgrade triton
	$(NEWEST)/bin/python -m pip freeze | grep '^triton=' > $(NEWEST)/triton.txt
	$(NEWEST)/bin/python $(PIP_INSTALL) --upgrade --constraint $(NEWEST)/triton.txt \
		'$(TORCH)' numpy transformers pytest hypothesis --editable '.[run,tune]'
	$(NEWEST)/bin/python -m pip freeze | grep -iE '^(triton|torch|numpy|transformers)='
	$(NEWEST)/bin/python -m pytest -m newest

test-engines: $(addprefix engine-,$(ENGINE))  ## the integrations in real servers; ENGINE=vllm for one

# each in all of its environments
engine-%: $$(foreach name,$$(ENVIRONMENTS_$$*),.venv-$$(name)/.installed)
	@set -e; for name in $(ENVIRONMENTS_$*); do \
		echo "$$name"; .venv-$$name/bin/python -m pytest -m 'not gpu and not slow' \
			tests/engines/$* $(TESTS_$*); done

.PRECIOUS: .venv-%/.installed
.venv-%/.installed: tests/engines/%.txt $$(wildcard tests/engines/$$*-*.txt) pyproject.toml
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python $(PIP_INSTALL) --requirement $< --editable '.[run]'
	test ! -e tests/engines/$*-bare.txt || \
		.venv-$*/bin/python $(PIP_INSTALL) --no-deps --requirement tests/engines/$*-bare.txt
	test ! -e tests/engines/$*-after.txt || \
		.venv-$*/bin/python $(PIP_INSTALL) --requirement tests/engines/$*-after.txt
	test ! -e tests/engines/$*-without.txt || \
		.venv-$*/bin/python -m pip uninstall --quiet --yes --requirement tests/engines/$*-without.txt
	@touch $@

lint: $(STAMP)  ## ruff and pyright
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/pyright

format: $(STAMP)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

clean:  ## remove caches, builds and .venv
	rm -rf $(VENV) $(VENV)-* build dist .pytest_cache .ruff_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
