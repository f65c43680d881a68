# Every target makes what it needs, .venv included; nothing has to be installed by hand first.
SHELL := /bin/bash
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# One Dagster instance for the demo, the UI and the command line, beside the data.
export DAGSTER_HOME ?= $(CURDIR)/.dagster

.PHONY: help install demo dev test test-slow lint format bench lock clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(INSTALLED) ## Install the locked dependencies and this package into .venv

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): requirements.lock pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(DAGSTER_HOME)/dagster.yaml:
	mkdir -p $(@D)
	ln -sfn $(CURDIR)/dagster.yaml $@

demo: $(INSTALLED) $(DAGSTER_HOME)/dagster.yaml ## Make a dataset from sample tables, then edit them and watch what is bought
	$(BIN)/imagepipeline-dagster demo

dev: $(INSTALLED) $(DAGSTER_HOME)/dagster.yaml ## Serve the Dagster UI on http://localhost:3000, sensors and schedules running
	$(BIN)/dagster dev --port 3000

# Three workers on two cores: much of the time is waiting, for browsers, servers and jobs.
test: $(INSTALLED) ## Run the tests that belong before every commit
	$(BIN)/pytest -n 3 --dist loadfile -m "not slow"

test-slow: $(INSTALLED) ## Run the others: crash and fault matrices, real daemons, the benchmarks' own tests
	$(BIN)/pytest -n 2 --dist loadfile -m slow

lint: $(INSTALLED) ## Check style, types and the rules of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## Measure purchase, sensors and moderation beside what one would write by hand
	$(BIN)/python -m benchmarks.purchase
	$(BIN)/python -m benchmarks.tables
	$(BIN)/python -m benchmarks.moderation

lock: $(INSTALLED) ## Resolve pyproject.toml anew into requirements.lock
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --quiet --upgrade \
		--group dev --extra moderation --extra postgres --output-file requirements.lock pyproject.toml

clean: ## Remove what the targets made, but not the data
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
