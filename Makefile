# `make` says what there is. Everything lives in .venv and takes Python 3.11, git and make.
PYTHON ?= python3
BIN := .venv/bin
DEST ?= demo-service
# Tests wait more than they calculate: for processes, for leases, for servers.
JOBS ?= $(shell expr 3 \* $$(getconf _NPROCESSORS_ONLN))
SPREAD = -v -n $(JOBS) --dist worksteal
export PYTHONDONTWRITEBYTECODE :=
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-redis test-all chaos check bench diff release-check siblings

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/installed: pyproject.toml
	@echo "Installing the tools into .venv ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv sync --inexact --quiet --compile-bytecode
	@touch $@

demo: .venv/installed ## render the default service, install and run it: DEST=, DEMO_SECONDS=
	@$(BIN)/python tools/demo.py $(DEST)

# Chaos after the rest, all of it at once: a second must be a second, and they mostly wait.
test: .venv/installed ## everything that CI runs; or a part: TESTS=tests/test_cli.py
	$(BIN)/python -m pytest $(SPREAD) $(or $(TESTS),--ignore tests/test_chaos.py)
	$(if $(TESTS),,$(BIN)/python -m pytest -v -n 3 tests/test_chaos.py)

test-redis: .venv/installed ## the variants with Redis on a redis-server of your machine
	$(BIN)/python -m pytest -v -n 2 --dist worksteal tests/on_redis.py

test-all: .venv/installed ## every valid triple of answers: rendered, linted, layered, declared
	STRENGTH=3 $(BIN)/python -m pytest $(SPREAD) tests/test_variants.py \
		-k "covering or nothing_of or declares or other_answers"

chaos: .venv/installed ## kill, freeze and crash real replicas: CHAOS_SECONDS= SEED= PAIRS=
	$(BIN)/python -m chaos

check: .venv/installed ## formatting, lint and types, of the template and of its own code
	$(BIN)/python -m pytest -q tests/test_source.py

bench: .venv/installed ## measure rendering, set-up, size, and what each backend costs
	$(BIN)/python -m benchmarks

diff: .venv/installed ## what a change does to the reference variants: make diff BASE=v0.1.0
	@$(BIN)/python -W ignore -m tools.diff $(BASE)

release-check: .venv/installed ## is the last commit the release that it says it is, and do services survive it?
	@$(BIN)/python -W ignore -m tools.release

siblings: .venv/installed ## render again the plain files that lie beside a .jinja
	$(BIN)/python tools/siblings.py
