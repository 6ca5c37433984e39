# One word each. `make demo` and `make test` set up everything they need.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell command -v python3.11 || command -v python3)
EXTRAS := data,learning,registry,pipelines,scoring,labeling,bench,dev

.PHONY: help setup demo test lint check format bench up screenshot constraints clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v == (3, 11) or sys.exit("maskfer needs Python 3.11, but %s is %d.%d; install python3.11 or run: make PYTHON=/path/to/python3.11 ..." % (sys.executable, *v))'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

setup: $(VENV)/.ready  ## create .venv and install the pinned packages

demo: setup  ## the whole line on synthetic faces: build, retrain, promote, serve, ask, score
	$(BIN)/maskfer demo

test: setup  ## all tests
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder

lint: setup  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test  ## what CI runs

format: setup  ## rewrite the sources in the house style
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: setup  ## speed tables
	$(BIN)/maskfer bench awfm

up: setup  ## serve the champion until Ctrl-C
	$(BIN)/maskfer serve

screenshot: setup  ## the picture of the page in docs/: make screenshot MODEL=RELEASE
	$(BIN)/python -m tests.screenshot --model $(MODEL)

constraints:  ## pin anew: resolve pyproject.toml from scratch into constraints.txt
	rm -rf build/pin && $(PYTHON) -m venv build/pin
	build/pin/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	{ echo '# Every package of every extra, pinned. Made by `make constraints`; edit pyproject.toml instead.'; \
	  build/pin/bin/python -m pip freeze --exclude-editable | sed -E 's/\+cpu$$//'; } > constraints.txt
	rm -rf build/pin

clean:  ## remove caches, builds and the demo; the registry, statistics and what was trained stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf .maskfer/cache .maskfer/demo
