# make demo: set up and play the lab.  make test: set up and run every check.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check -q install

.PHONY: demo test test-long model mutants bench score lock clean

demo: $(VENV)/lab
	$(BIN)/smtp-sts lab demo

test: $(VENV)/test
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then sh tests/real/install.sh; fi
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --dist loadfile -m "not alone"
	@# What measures how long answers take gets the machine to itself.
	$(BIN)/pytest -m alone

# What takes minutes and finds what seconds may miss: see docs/proofs.md.
test-long: $(VENV)/test
	$(MAKE) model MINUTES=2
	$(MAKE) mutants

MINUTES ?= 10
model: $(VENV)/test
	PYTHONPATH=tests $(BIN)/python -m resolver.long_model $(MINUTES)

mutants: $(VENV)/test
	PYTHONPATH=tests $(BIN)/python -m resolver.mutants $(ONLY)

bench: $(VENV)/test
	$(BIN)/python bench/run.py
	$(BIN)/python -m bench.cold

score: $(VENV)/test
	$(BIN)/python -m bench.score

$(BIN)/python:
	@$(PYTHON) -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed: apt-get install python3, or make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -I -c 'import venv, ensurepip' || \
	  { echo "Python's venv is missing: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -I -m venv $(VENV)

$(VENV)/lab: $(BIN)/python requirements/lab.txt pyproject.toml
	$(PIP) --require-hashes -r requirements/lab.txt
	$(PIP) --no-deps -e .
	@touch $@

$(VENV)/test: $(VENV)/lab requirements/test.txt
	$(PIP) --require-hashes -r requirements/test.txt
	@touch $@

# Needs uv in the environment.
LOCK := uv pip compile -q --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --custom-compile-command "make lock"
lock:
	$(LOCK) --extra lab pyproject.toml -o requirements/lab.txt
	$(LOCK) --extra lab pyproject.toml --extra postgresql --group test -o requirements/test.txt
	$(LOCK) requirements/readers.in -o requirements/readers.txt

clean:
	rm -rf $(VENV) bench/out
