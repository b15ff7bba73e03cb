# `make demo` and `make test` need python3 (3.11 or newer) and nothing else: they make their own environment in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test check format lock clean

help:
	@echo "make demo    start a fresh cell, send it a generated month over HTTP, report what became of it"
	@echo "make test    the whole test suite"
	@echo "make check   formatting, lint, types, import rules"
	@echo "make format  format the code"
	@echo "make lock    write the lock files anew from pyproject.toml"
	@echo "make clean   remove what was made"

# Running needs a tenth of what testing needs, so each has its own stamp.
.venv/run: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "BEMS needs Python 3.11 or newer; this is " + sys.version)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

.venv/test: .venv/run requirements-test.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.lock
	@touch $@

demo: .venv/run
	@$(BIN)/bems demo

test: .venv/test
	$(BIN)/python -m pytest -n auto

check: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --upgrade pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --upgrade --extra test pyproject.toml -o requirements-test.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
