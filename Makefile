# make run       the dashboard on the example (no torch)
# make test      all tests, in the same environment plus what they need
# make check     ruff and mypy --strict
# make calibrate time the real kernels on this machine
# make schemas   regenerate docs/reference/schemas
#
# TORCH chooses the torch build of `make calibrate`, e.g. make calibrate TORCH=torch==2.13.0+cu130 \
#   PIP_EXTRA="--extra-index-url https://download.pytorch.org/whl/cu130"
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
TORCH ?=
PIP_EXTRA ?=
SCENARIO ?= cross-encoder-rerank
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) $(PIP_EXTRA)

.PHONY: run test check calibrate schemas screenshot clean

run: $(VENV)/.run
	CAPACITY_SCENARIO=$(SCENARIO) $(BIN)/python -m streamlit run dashboard.py

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(PYTEST_ARGS)

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

calibrate: $(VENV)/.calibrate
	$(BIN)/capacity calibrate $(CALIBRATE_ARGS)

schemas: $(VENV)/.run
	$(BIN)/capacity schema --output docs/reference/schemas

screenshot: $(VENV)/.test
	CAPACITY_SCREENSHOT=docs/images/dashboard.png $(BIN)/python -m pytest -q tests/test_browser.py

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(PIP) -e .
	touch $@

$(VENV)/.calibrate: $(VENV)/.run
	$(if $(TORCH),$(BIN)/python -m pip install --quiet $(PIP_EXTRA) "$(TORCH)")
	$(if $(TORCH),$(BIN)/python -m pip install --quiet -e ".[calibrate]",$(PIP) -e ".[calibrate]")
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(PIP) -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache dist build
