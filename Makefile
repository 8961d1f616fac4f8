# Two commands on a fresh machine: `make run` and `make test`. PYTHON and EXTRA can be set: make run EXTRA=cuda13
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRA ?= $(if $(filter Darwin,$(shell uname -s)),,cpu)
PACKAGE := .$(if $(EXTRA),[$(EXTRA)])
# Many tests wait for processes, so two run at once. Each of the two begins with a half of the list: neighbours share what they start.
TOGETHER := -n 2 --dist worksteal

.PHONY: run test test-fast fuzz check format docs bench bench-page install dev clean

run: install  ## Serve the starter model in the foreground.
	$(BIN)/pensieved run $(ARGS)

test: dev  ## Every test, the slow ones with the real model included.
	$(BIN)/pytest $(TOGETHER)

test-fast: dev  ## The tests that need seconds.
	$(BIN)/pytest $(TOGETHER) -m "not slow"

fuzz: dev  ## 10,000 requests made from the OpenAPI document; FUZZ="--url URL" for a running daemon.
	PYTHONPATH=tests $(BIN)/python -m support.fuzz --requests 10000 $(FUZZ)

check: dev  ## Lint, formatting, types and the import contracts.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: dev  ## Write the generated files again.
	$(BIN)/python -m pensieved.settings.document config docs
	$(BIN)/python -m pensieved.cli.document docs

bench: $(VENV)/installed-bench  ## Ceiling, daemon and peers in turn; then docs/benchmarks.md. BENCH="--quick" is a try.
	PYTHONPATH=tests $(BIN)/python -m bench $(BENCH)
	PYTHONPATH=tests $(BIN)/python -m bench.report

bench-page: $(VENV)/installed-bench  ## docs/benchmarks.md from the results that are there.
	PYTHONPATH=tests $(BIN)/python -m bench.report

install: $(VENV)/installed-$(or $(EXTRA),default)
dev: $(VENV)/installed-dev

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/installed-$(or $(EXTRA),default): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '$(PACKAGE)'
	touch $@

$(VENV)/installed-dev: pyproject.toml | install
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

$(VENV)/installed-bench: pyproject.toml | install
	$(BIN)/python -m pip install --quiet --group bench
	touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
