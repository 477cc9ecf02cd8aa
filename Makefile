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

# What agentray is measured beside wants other versions of what it needs too: an environment apart.
PEERS_VENV ?= .venv-peers
PEERS_LOCK := benchmarks/peers/requirements.lock
PEERS_STAMP := $(PEERS_VENV)/.peers-installed

# Clients of other systems, which the tests let talk to agentray: an environment apart as well.
THIRD_PARTY_VENV ?= .venv-third-party
THIRD_PARTY_LOCK := tests/third_party/requirements.lock
THIRD_PARTY_STAMP := $(THIRD_PARTY_VENV)/.third-party-installed

.PHONY: help up down install check test test-cluster test-cluster-1 test-cluster-2 test-others unit third-party chaos format lock benchmark bench-peers clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

up: $(STAMP) ## Install and start agentray with the example app (or APP=module:app)
	$(BIN)/agentray up $(APP)
	@echo "For the command agentray in this shell: . $(BIN)/activate"

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
	$(CALMLY) $(BIN)/ruff check .
	$(CALMLY) $(BIN)/ruff format --check .
	$(CALMLY) $(BIN)/typos
	$(CALMLY) $(BIN)/lint-imports --no-logo
	$(CALMLY) $(BIN)/pyright
	$(CALMLY) $(BIN)/deptry .

# More than there are processors: half of the time a test waits for a process, a socket or a timer.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(4, 2 * (os.cpu_count() or 1)))')

# The tests of the cluster wait most of the time: the others, and the checks, compute meanwhile, and
# take the processors when the cluster needs none. Hypothesis tries the same examples each time here:
# who changes something else shall not be who finds what nobody has thought of (`pytest` may).
test: $(STAMP) $(THIRD_PARTY_STAMP) ## Everything: the checks and all tests, at once; each tells at its end
	+@$(MAKE) --no-print-directory -j 4 --output-sync=target CALMLY='nice -n 5' \
	  check test-cluster-1 test-cluster-2 test-others

test-cluster: test-cluster-1 test-cluster-2 ## The tests of a Ray cluster that they share

test-cluster-1 test-cluster-2: export PYTHONDONTWRITEBYTECODE =
test-cluster-1 test-cluster-2: test-cluster-%: $(STAMP)
	$(BIN)/python -m pytest -q -p no:xdist -m 'cluster(half=$*)' tests/acceptance tests/integration tests/chaos

test-others: export PYTHONDONTWRITEBYTECODE =
test-others: $(STAMP) $(THIRD_PARTY_STAMP) ## All others
	$(CALMLY) $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m 'not cluster' --hypothesis-profile=ci \
	  tests/acceptance tests/integration tests/chaos tests/unit tests/contract

unit: $(STAMP) ## The quick tests only
	$(BIN)/python -m pytest -q -n $(WORKERS) tests/unit

third-party: $(THIRD_PARTY_STAMP) ## Make .venv-third-party: clients of other systems, which tests use

# The lock is complete, so nothing is resolved; what it says of synapse-sdk is in requirements.in.
$(THIRD_PARTY_STAMP): $(STAMP) $(THIRD_PARTY_LOCK)
	$(BIN)/python -m venv --clear --without-pip $(THIRD_PARTY_VENV)
	$(PIP) --python $(THIRD_PARTY_VENV)/bin/python install --quiet --no-compile --no-deps \
	  --ignore-requires-python --require-hashes -r $(THIRD_PARTY_LOCK)
	@touch $@

chaos: $(STAMP) ## Kill parts of a cluster at random under load, and judge (ARGS="--seed 7 --seconds 120")
	$(BIN)/python -m tests.chaos.run $(ARGS)

format: $(STAMP) ## Mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(STAMP) ## Measure the running cluster
	$(BIN)/agentray microbenchmark

bench-peers: $(STAMP) $(PEERS_STAMP) ## Measure beside AutoGen, Academy and mojentic (ARGS="--quick --json FILE")
	$(BIN)/python -m benchmarks.peers --peers-python $(PEERS_VENV)/bin/python $(ARGS)

$(PEERS_STAMP): $(STAMP) $(PEERS_LOCK)
	$(BIN)/python -m venv --clear $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile \
	  --require-hashes -r $(PEERS_LOCK)
	@$(PEERS_VENV)/bin/python -m compileall -q -j 0 $(PEERS_VENV)/lib >/dev/null 2>&1 || true
	@touch $@

# The lock names no registry and holds for each supported Python and for Linux on x86-64 and arm64.
# hatchling and editables are in it: the package itself is built without fetching anything.
UV ?= $(or $(shell command -v uv),$(BIN)/uv)
LOCKED := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-emit-find-links --no-annotate --no-header $(if $(UPGRADE),--upgrade)
SYNAPSE_SDK := synapse-sdk==2026.2.17
EXTRA := import sys, tomllib; \
  print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]], sep="\n")
lock: ## Choose the versions of all dependencies anew (UPGRADE=1: the newest allowed)
	@command -v $(UV) >/dev/null || { $(MAKE) install && $(PIP) install --quiet uv; }
	printf 'hatchling>=1.27\neditables>=0.5\n' | $(UV) pip compile $(LOCKED) \
	  --extra llm --extra otel --extra dev pyproject.toml - --output-file requirements.lock
	{ $(PYTHON) -c '$(EXTRA)' bench; printf 'psutil>=6\nuvloop>=0.21\n'; } \
	  | $(UV) pip compile $(LOCKED) - --output-file $(PEERS_LOCK)
	$(UV) pip compile $(LOCKED) tests/third_party/requirements.in --output-file $(THIRD_PARTY_LOCK)
	@# Without its dependencies, and for Python 3.12, which it asks for.
	echo '$(SYNAPSE_SDK)' | $(UV) pip compile $(subst 3.11,3.12,$(LOCKED)) --no-deps - >>$(THIRD_PARTY_LOCK)

clean: ## Remove the environment and everything that tools left here
	rm -rf $(VENV) $(PEERS_VENV) $(THIRD_PARTY_VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find agentray benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +
