# Every target makes what it needs, .venv included; nothing has to be installed by hand first.
SHELL := /bin/bash
.DELETE_ON_ERROR:

PYTHON ?= python3
PORT ?= 3000
VENV := .venv
BIN := $(VENV)/bin
RUN_TIME := $(VENV)/.run-time
EVERYTHING := $(VENV)/.everything
# One Dagster instance for the demo, the UI and the command line: this folder, with its dagster.yaml.
# A DAGSTER_HOME of the environment is another project's: it counts only where the command names it.
export DAGSTER_HOME := $(CURDIR)

# `dg dev`, which Dagster advises at each start, starts the same services with 30 packages more.
DG_ADVICE := ignore:Function `dev_command` is superseded

PIP_INSTALL := $(BIN)/python -m pip install --quiet --no-deps --disable-pip-version-check
UV_COMPILE := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 \
	--generate-hashes --no-header --no-emit-index-url --no-emit-find-links --quiet --extra production

.PHONY: help install install-dev demo dev quick test test-slow lint format docs pictures bench lock clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

install: $(RUN_TIME) ## Install this package and its run-time dependencies into .venv

install-dev: $(EVERYTHING) ## Install the extras and the tools of `make test` and `make lint` too

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(RUN_TIME): requirements.lock pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) --require-hashes --requirement requirements.lock
	$(PIP_INSTALL) --no-build-isolation --editable .
	touch $@

$(EVERYTHING): requirements-dev.lock $(RUN_TIME)
	$(PIP_INSTALL) --require-hashes --requirement requirements-dev.lock
	touch $@

demo: $(RUN_TIME) ## Make a dataset from sample tables, then edit them and watch what is bought
	$(BIN)/imagepipeline-dagster demo

dev: $(RUN_TIME) ## Serve the Dagster UI on http://localhost:$PORT, sensors and schedules running
	PYTHONWARNINGS='$(DG_ADVICE)' $(BIN)/dagster dev --port $(PORT)

quick: $(EVERYTHING) ## Run the unit tests
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow" --ignore tests/cli --ignore tests/defs --ignore tests/e2e

# Three workers on two cores: much of the time is waiting, for browsers, servers and jobs.
test: $(EVERYTHING) ## Run the tests that belong before every commit
	$(BIN)/pytest -n 3 --dist loadfile -m "not slow"

test-slow: $(EVERYTHING) ## Run the others: crash and fault matrices, real daemons, the benchmarks' own tests
	$(BIN)/pytest -n 2 --dist loadfile -m slow

lint: $(EVERYTHING) ## Check style, types and the rules of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/deptry imagepipeline_dagster

format: $(EVERYTHING) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(EVERYTHING) ## Write the pages that follow from the code
	$(BIN)/python -m tests.docs.reference

pictures: $(EVERYTHING) ## Take the pictures of the UI in docs/images anew
	RENEW_PICTURES=1 $(BIN)/pytest -m slow tests/e2e/test_approved_purchase.py tests/e2e/test_overrides.py

bench: $(EVERYTHING) ## Measure each stage, and judge what is promised of its speed
	$(BIN)/python -m benchmarks.purchase
	$(BIN)/python -m benchmarks.tables
	$(BIN)/python -m benchmarks.moderation
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.releases

lock: $(EVERYTHING) ## Resolve pyproject.toml anew into the two locks
	$(UV_COMPILE) --upgrade --group build --output-file requirements.lock
	$(UV_COMPILE) --upgrade --group dev --extra moderation --constraint requirements.lock \
		--output-file requirements-dev.lock

clean: ## Remove what the targets made, but not the data
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
