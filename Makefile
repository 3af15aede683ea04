# `make` shows this list. Everything runs in .venv, which `make setup` makes.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint clean
PY := .venv/bin/python

help:  ## show what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

setup:  ## make .venv with everything pinned (again: under a second)
	@bash deploy/setup.sh

demo: setup  ## a model that learns from a shop's messages, before your eyes (under 4 minutes)
	@$(PY) -m stream_ft demo

test: setup  ## the tests (under 10 minutes on two cores)
	@$(PY) -m pytest -rs -n 2 --dist loadfile

test-slow: setup  ## the tests that take longer
	@$(PY) -m pytest -rs --durations=20 -n 2 --dist loadfile --timeout 420 -m "slow and not alone and not gpu"; first=$$?; \
	$(PY) -m pytest -rs --durations=20 -m "slow and alone and not gpu" && exit $$first

lint: setup  ## style and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@rm -rf build/typecheck && mkdir -p build/typecheck && cp -R stream_ft build/typecheck/ && cp -R connectors build/typecheck/stream_ft/
	@cd build/typecheck && ../../$(PY) -m mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache stream_ft

clean:  ## remove what tests and the demo wrote; .venv stays
	rm -rf build dist demo-out bench-out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
