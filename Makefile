# Everything a developer or a new user does, in one command each. `make help` lists them.

SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
APP ?= agentray.examples.text_analysis:app

# What changes where or how pip installs has no place in our own environment. Where packages come
# from (PIP_INDEX_URL, PIP_FIND_LINKS, PIP_PROXY, PIP_CERT, …) stays the user's choice.
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_CONSTRAINT PIP_BUILD_CONSTRAINT
unexport PIP_REQUIRE_HASHES PIP_NO_DEPS PIP_DRY_RUN PIP_REQUIREMENT PIP_EDITABLE PIP_PYTHON
unexport PIP_NO_BUILD_ISOLATION PIP_ONLY_BINARY PIP_NO_BINARY PIP_REPORT PIP_UPGRADE
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

# What it takes to install. The stamp is in the environment, so removing that removes both.
STAMP := $(VENV)/.agentray-installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help up down install check test unit format lock benchmark clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

up: $(STAMP) ## Install and start agentray with the example app (or APP=module:app)
	$(BIN)/agentray up $(APP)

down: ## Stop what `make up` started
	$(BIN)/agentray down

install: $(STAMP) ## Make .venv with the locked dependencies and this package

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "agentray needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>/dev/null || echo missing)." >&2; \
	  echo "Name another one: make PYTHON=/path/to/python3.12 …" >&2; exit 1; }
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || $(PYTHON) -m venv --clear $(VENV)
	@# pip compiles one file after the other, compileall all cores at once; and without bytecode,
	@# every start of Ray compiles again where PYTHONDONTWRITEBYTECODE is set.
	$(PIP) install --quiet --no-compile --require-hashes -r requirements.lock
	$(PIP) install --quiet --no-compile --no-deps --no-build-isolation --no-index -e .
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@touch $@

check: $(STAMP) ## Lint, format, spelling, import layers, types, dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/typos
	$(BIN)/lint-imports --no-logo
	$(BIN)/pyright
	$(BIN)/deptry .

test: check ## Everything: the checks, then all tests
	$(BIN)/python -m pytest -q tests/unit tests/contract
	$(BIN)/python -m pytest -q tests/integration tests/acceptance tests/chaos  # one cluster for all

unit: $(STAMP) ## The quick tests only
	$(BIN)/python -m pytest -q tests/unit

format: $(STAMP) ## Mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(STAMP) ## Measure the running cluster
	$(BIN)/agentray microbenchmark

# The lock names no registry and holds for each supported Python and for Linux on x86-64 and arm64.
# hatchling and editables are in it: the package itself is built without fetching anything.
UV ?= $(or $(shell command -v uv),$(BIN)/uv)
lock: ## Choose the versions of all dependencies anew (UPGRADE=1: the newest allowed)
	@command -v $(UV) >/dev/null || { $(MAKE) install && $(PIP) install --quiet uv; }
	printf 'hatchling>=1.27\neditables>=0.5\n' | $(UV) pip compile --quiet --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
	  --extra llm --extra dev --extra bench $(if $(UPGRADE),--upgrade) \
	  pyproject.toml - --output-file requirements.lock

clean: ## Remove the environment and everything that tools left here
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find agentray tests -name __pycache__ -type d -prune -exec rm -rf {} +
