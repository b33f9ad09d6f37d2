# Each target first makes what it needs: a virtual environment in .venv with the versions of constraints.txt.
# Other interpreter: `make demo PYTHON=python3.12`. Further words for the program: `make demo ARGS='--seed 1'`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
PIP_FLAGS ?=
# The tests start the command line many times: it is compiled once.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test check verify clean

demo: $(STAMP)
	$(BIN)/tokenward demo $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python scripts/lengths.py
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pytest -q -n 2 --dist loadscope -m "not slow"

test: check
	$(BIN)/pytest -q -n 2 --dist loadscope -m slow tests

# By hand, an hour or two: planted faults, kills, the full demo on five seeds, the figures of docs/ anew, and the page of
# tokens driven in a browser, which needs a Chromium: on the PATH, or named by CHROMIUM.
verify: $(STAMP)
	$(BIN)/python scripts/mutate.py
	$(BIN)/python scripts/kills.py
	$(BIN)/python scripts/demo_seeds.py
	$(BIN)/python scripts/figures.py
	$(BIN)/pip install -q --disable-pip-version-check $(PIP_FLAGS) -e '.[browser]'
	$(BIN)/python scripts/browser.py

# What can be made again; the runs stay.
clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find src tests scripts examples -name __pycache__ -type d -prune -exec rm -rf {} +

# PIP_FLAGS reaches pip: name PyTorch's own index of CPU wheels there to spare the CUDA build that Linux gets otherwise.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	touch $@
