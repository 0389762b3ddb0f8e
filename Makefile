# Daybook. `make help` lists what there is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SCALE ?=
JOBS ?= 3

.DEFAULT_GOAL := help
.PHONY: help up test test-kafka test-hledger soak check audit bench lock python run-environment dev-environment

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s'|' 2>/dev/null \
	  || sed -nE 's/^([a-z-]+):.*  ## (.*)/  make \1  \2/p' $(MAKEFILE_LIST)

up: run-environment  ## everything on this machine until Ctrl-C; SCALE="ledgers=2 events=1" scales pools
	@exec $(BIN)/daybook up --stop-with-parent $(foreach wish,$(SCALE),--scale $(wish))

test: dev-environment  ## all tests but those that need Apache Kafka or hledger, JOBS files at a time
	@$(BIN)/pytest -m "not kafka and not hledger" -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-kafka: dev-environment  ## events against a real Apache Kafka: needs Java 17 and Maven
	@$(BIN)/pytest -m kafka tests/kafka $(ARGS)

test-hledger: dev-environment  ## what is exported for hledger, by hledger itself: needs that program
	@command -v hledger >/dev/null || { echo "This needs hledger (https://hledger.org; on Debian and Ubuntu: apt install hledger)."; exit 1; }
	@$(BIN)/pytest -m hledger tests/integration/test_hledger.py $(ARGS)

soak: dev-environment  ## the service beside a model of it, 200,000 random commands; SEED=, COMMANDS= and WIDTH= choose
	@SEED=$(SEED) COMMANDS=$(COMMANDS) WIDTH=$(WIDTH) $(BIN)/python -m tests.model

check: dev-environment  ## style, types, arrows between modules, migrations, lock files, insecure code, advisories
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest -q tests/integration/test_migrations.py
	requirements/lock.sh --check
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml api cli domain infrastructure requirements tasks workers
	$(BIN)/python requirements/audit.py

audit: dev-environment  ## known vulnerabilities of what is locked; AUDIT=required fails if no service can be asked
	@$(BIN)/python requirements/audit.py

bench: dev-environment  ## how fast, as ratios to the same Postgres; saves its figures under bench/
	@$(BIN)/python -m tests.benchmarks $(ARGS)

lock: dev-environment  ## resolve requirements/*.in again; ARGS=--upgrade takes the newest versions
	@requirements/lock.sh $(ARGS)

# -- the environment: made once, installed again only when a lock file changed ----------------------------------------

python:
	@if [ ! -x $(BIN)/python ]; then \
	  command -v $(PYTHON) >/dev/null || { echo "Daybook needs Python 3.11 or newer, and there is no $(PYTHON). Install it, or set PYTHON=/its/path."; exit 1; }; \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Daybook needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Set PYTHON=/path/to/a/newer/one."; exit 1; }; \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) can't make virtual environments: its venv or ensurepip is missing. On Debian and Ubuntu: apt install python3-venv."; exit 1; }; \
	  echo "Creating $(VENV)"; \
	  $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; \
	fi

run-environment: python
	@cmp -s requirements/run.txt $(VENV)/run.txt || cmp -s requirements/dev.txt $(VENV)/dev.txt || { \
	  echo "Installing requirements/run.txt" && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt && \
	  cp requirements/run.txt $(VENV)/run.txt; }
	@$(install_daybook)

dev-environment: python
	@cmp -s requirements/dev.txt $(VENV)/dev.txt || { \
	  echo "Installing requirements/dev.txt" && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt && \
	  cp requirements/dev.txt $(VENV)/dev.txt && cp requirements/run.txt $(VENV)/run.txt; }
	@$(install_daybook)

# In the environment the project itself is a link to this folder, so only its own description makes it out of date.
install_daybook = cmp -s pyproject.toml $(VENV)/pyproject.toml || { \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . && \
	  cp pyproject.toml $(VENV)/pyproject.toml; }
