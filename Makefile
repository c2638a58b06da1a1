# make demo | make test | make bench | make zip. Every target sets up what it needs.
PYTHON_BIN := .venv/bin/python
MODEL ?= script:examples/scripts
ISOLATION ?= process
ENVIRONMENT ?= auto
# The bundled scripts solve these three tasks. They run without Docker.
DEMO_TASKS ?= --task fix-log-rotation --task repair-config --task sales-report
# Tests wait more than they compute, so there are twice as many workers as processors.
WORKERS ?= $(shell expr 2 \* $$(nproc))
# Hundreds of processes of the tests import the same modules, so these are compiled once.
unexport PYTHONDONTWRITEBYTECODE
PYTEST = $(PYTHON_BIN) -m pytest --quiet --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help setup dev environments agent bare harbor ray programs demo lint types test fuzz mutants bench zip lock clean

help:
	@echo "make demo    runs the bundled tasks: scripted model by default, MODEL=live with DEEPSEEK_API_KEY"
	@echo "make test    lint, types, import rules and all tests that can run here"
	@echo "make fuzz    the tests with random cases, ten times as many as make test tries"
	@echo "make mutants  what the tests of the core modules notice of single changes: about 30 minutes"
	@echo "make bench   the figures of docs/benchmarks.md"
	@echo "make zip     dist/agent.zip, checked as a validator checks it"
	@echo "make setup   what the command .venv/bin/capstan needs, alone"
	@echo "make dev     what development needs, too;  make lock: the lock files anew"

setup:
	@scripts/setup runner

dev:
	@scripts/setup dev

environments: agent bare harbor programs

agent bare harbor ray programs: dev
	@scripts/setup $@

demo: setup
	@.venv/bin/capstan run examples/tasks $(DEMO_TASKS) --agent . --model $(MODEL) --env $(ENVIRONMENT) --isolation $(ISOLATION) $(ARGS)

lint: dev
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/lint-imports

types: ray
	@.venv/bin/pyright

test: environments lint types
	$(PYTEST) -rs --durations 20 $(ARGS)

fuzz: environments
	CAPSTAN_FUZZ=all $(PYTEST) -m fuzz $(ARGS)

mutants: dev
	@scripts/setup mutants
	@$(PYTHON_BIN) scripts/mutants $(ARGS)

bench: environments
	@for figures in benchmarks/*.py; do echo "== $$figures"; $(PYTHON_BIN) $$figures || exit 1; done

zip: setup
	@$(PYTHON_BIN) build_zip.py

lock: dev
	scripts/lock

clean:
	rm -rf mutants .venv .venv-agent .venv-bare .venv-harbor .pytest_cache .ruff_cache .hypothesis dist
