PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# One place for what Dagster remembers and one for the data, for every command; your own environment wins.
export DAGSTER_HOME ?= $(CURDIR)/.dagster_home
export BATCH_ASSETS_ROOT ?= $(CURDIR)/data

# Tests and Ray start hundreds of processes: each would compile all of the package again where nothing may be kept.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install demo ui servers test test-long test-fast wheel-test bench check

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## Build the virtual environment in .venv

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "batch-assets needs Python 3.11 or newer; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: install ## Score every CDNOW customer for 1998-06-30 and look one up
	@$(BIN)/batch-assets demo

ui: install ## Open the Dagster UI on http://127.0.0.1:3000
	@$(BIN)/batch-assets ui

servers: install ## Bring the Redis, PostgreSQL, Cassandra, Kafka, packages of node and Feast that tests start
	@$(BIN)/python -m batch_assets_tests.servers.fetch

test: install ## Run the tests, but for those that take minutes
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test-long: install ## Run the tests that take minutes, one after the other (half an hour)
	@$(BIN)/python -m pytest --long -m long

test-fast: install ## Run the tests that need no whole night and no process of their own
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not process and not night"

wheel-test: install ## Install the wheel as somebody else would, first without torch, and walk through it (a quarter of an hour)
	@$(BIN)/python -m batch_assets_tests.wheel

bench: install ## Compare with Daft, Ray Data, Spark and the limit of the hardware (about ten minutes; see BENCHMARKS.md)
	@$(BIN)/python benchmarks/compare.py

check: install ## Formatting, lint, the arrows between rooms, types, what dg says of the pipelines
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports
	@$(BIN)/mypy
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/dg check yaml
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/dg check defs
