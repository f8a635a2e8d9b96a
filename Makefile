# `make quickstart`: install into .venv and train a first model.   `make test`: the tests.
PYTHON ?= python3
BIN := .venv/bin
# Two workers with one thread each: the tests' models are too small to share a core's work.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: quickstart install test test-all lint types format ci clean

quickstart: .venv/installed
	$(BIN)/hornbook quickstart

install: .venv/installed

test: .venv/installed-dev
	$(PYTEST) -m "not long and not network"

# The long ones, too. Those with a real wiki need Debian packages that tests/mediawiki.py names.
test-all: .venv/installed-dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,ray]'
	$(PYTEST)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ci: lint types test

clean:
	rm -rf .venv build dist src/*.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "hornbook needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all]'
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@ .venv/installed
