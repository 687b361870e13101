# make demo   sets up and runs the whole job on synthetic slices
# make test   sets up and runs every check and test
# make test-bounds  tries both ends of the versions in pyproject.toml in fresh environments
# make test-arm  the device side on ARM, emulated: two Debian roots in .arm/, where they can be set up
# make docs   builds the site in site/: guides and API, a warning is an error
# make fuzz   feeds decoding and model files with bytes that a fuzzer finds, a minute each
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
WORKERS ?= $(shell $(PYTHON) -c "import os; print(1 + (os.cpu_count() or 1))")
STAMP  := $(VENV)/.installed-$(shell cat pyproject.toml pretrained/pyproject.toml web/pyproject.toml web/vendor.py Makefile | cksum | cut -d' ' -f1)

.PHONY: setup demo test test-bounds test-arm quick docs fuzz lint format clean
.DEFAULT_GOAL := setup

$(STAMP): pyproject.toml pretrained/pyproject.toml web/pyproject.toml web/vendor.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]" ./pretrained
	@# Its runtime comes from npm; without it the tests of pages skip.
	if command -v npm >/dev/null; then $(BIN)/python -m pip install --quiet ./web; \
		else echo "no npm here: btc-export --web is left out"; fi
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

# A file's tests stay in one process: they share what was trained for them. One process more than
# there are cores, since each waits a while for downloads, installs and other processes.
test: lint
	$(BIN)/python -m pytest -m "slow or not slow" -n $(WORKERS) --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder

# Part of make test; by itself for who changes a bound.
test-bounds: setup
	$(BIN)/python -m pytest -m slow tests/device/test_environments.py -k "oldest or device_tests"

test-arm: setup
	$(BIN)/python -m pytest -m "slow or not slow" --durations=0 tests/arm

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
	rm -rf $(VENV) .arm demo-out build dist site pretrained/build *.egg-info pretrained/*.egg-info web/build web/*.egg-info \
		web/btc_edge_web/vendored
