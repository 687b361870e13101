# make demo   sets up and runs the whole job on synthetic slices
# make test   sets up and runs every check and test
# make test-bounds  tries both ends of the versions in pyproject.toml in fresh environments
# make docs   builds the site in site/: guides and API, a warning is an error
# make fuzz   feeds decoding and model files with bytes that a fuzzer finds, a minute each
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed-$(shell cat pyproject.toml pretrained/pyproject.toml Makefile | cksum | cut -d' ' -f1)

.PHONY: setup demo test test-bounds quick docs fuzz lint format clean
.DEFAULT_GOAL := setup

$(STAMP): pyproject.toml pretrained/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]" ./pretrained
	rm -f $(VENV)/.installed-*
	touch $@

setup: $(STAMP)

demo: setup
	$(BIN)/python -m benchmarks.demo --out demo-out

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

quick: setup
	$(BIN)/python -m pytest

# A file's tests stay in one process: they share what was trained for them.
test: lint
	$(BIN)/python -m pytest -m "slow or not slow" -n logical --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder

# Part of make test; by itself for who changes a bound.
test-bounds: setup
	$(BIN)/python -m pytest -m slow tests/device/test_environments.py -k "oldest or device_tests"

docs: setup
	$(BIN)/mkdocs build --strict

fuzz: setup
	$(BIN)/python -m pip install --quiet --editable ".[fuzz]"
	$(BIN)/python -m tests.fuzz.fuzz_decode -max_total_time=60
	$(BIN)/python -m tests.fuzz.fuzz_model_json -max_total_time=60

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo-out build dist site pretrained/build *.egg-info pretrained/*.egg-info
