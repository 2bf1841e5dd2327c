# Everything here needs Python 3.11 or newer (with venv), make, and a Python package index.
#
#   make demo    fit the example data set with less memory than it takes, and write a report
#   make test    the test suite
#   make lint    formatting, types, layering, and the CuPy calls against the CuPy wheel
#   make bench   the benchmarks, in under 20 minutes; SCALE=full takes hours
#   make soak    fits that are killed at random, for two hours; ARGS="--hours 8" for more
#   make clean   remove the environment and everything built in it
#
# PYTHON=... picks the interpreter for a new environment; ARGS=... is passed on to the command.

.NOTPARALLEL:
.DEFAULT_GOAL := help

VENV := .venv
SCALE := quick
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input

# A name on PATH may be a shim for a version that is not there, so each candidate is run, not just found.
candidates := python3.13 python3.12 python3.11 python3 python
probe := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(firstword $(foreach p,$(candidates),$(shell $(p) -c '$(probe)' </dev/null >/dev/null 2>&1 && echo $(p))))

.PHONY: help demo test lint bench soak clean

help:
	@sed -n 's/^#  *make/make/p' Makefile

demo: $(VENV)/installed-demo
	$(BIN)/nysstream demo $(ARGS)

# Idle threads of OpenBLAS would spin for the time that the other half of the tests needs. Where Python is
# told to write no bytecode, as in many containers, each of the tests' processes would compile the package.
test: $(VENV)/installed-test
	PYTHONDONTWRITEBYTECODE= OPENBLAS_THREAD_TIMEOUT=4 $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_floors.py tests/test_cupy_names.py
	$(BIN)/python .ci/check_cupy.py nysstream/arrays.py

bench: $(VENV)/installed-test
	$(BIN)/python -m benchmarks --scale $(SCALE) $(ARGS)

soak: $(VENV)/installed-test
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.soak $(ARGS)

clean:
	rm -rf $(VENV) demo-out .mypy_cache .pytest_cache .ruff_cache .hypothesis

# One stamp for each set of extras; the package itself is linked, so only new requirements reinstall.
$(VENV)/installed-%: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) --editable '.[$*]'
	@touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
	  echo "make: no Python 3.11 or newer with the venv module found; name one: make PYTHON=/path/to/python3" >&2; \
	  exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
