# Slipway's commands. Settings are environment variables (PIPELINE_REGISTRY, PIPELINE_BASES, …), so
# that set-up and run see the same; ARGS are arguments for `make run`, PYTEST for the tests.
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
ENVIRONMENT := $(or $(UV_PROJECT_ENVIRONMENT),.venv)
PYTHON := $(ENVIRONMENT)/bin/python
BIN := $(ENVIRONMENT)/bin
# `make setup` may be on its way to run: what it says is for a person, and its answer is its exit.
.PHONY: help environment setup run test test-cluster check fix bench bench-api down doctor clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

environment:
	@sh pipeline/setup/bootstrap.sh

setup: environment  ## what a run needs: the environment, Docker, base images, a registry
	@$(PYTHON) -m pipeline setup

run: setup  ## lint, test, build, push and verify; ARGS="--fresh test"
	@$(PYTHON) -m pipeline $(ARGS)

test: setup  ## the project's own tests; PYTEST="-k name"
	@mkdir -p reports
	@$(PYTHON) -m pytest -m "not cluster" --cov=pipeline --cov-report=term:skip-covered \
		--cov-report=xml:reports/coverage.xml --cov-fail-under=90 \
		--junitxml=reports/tests.xml $(PYTEST)

test-cluster: run  ## the tests on a real Kubernetes with KEDA, which are made for it
	@$(PYTHON) -m pytest -m cluster --junitxml=reports/tests-cluster.xml \
		tests/cluster tests/manifests $(PYTEST)

check: environment  ## format, lint and types of everything
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@$(BIN)/mypy nginx/tests
	@$(BIN)/hadolint service/Dockerfile nginx/Dockerfile jenkins/Dockerfile \
		pipeline/setup/standins/Dockerfile

fix: environment  ## format, and repair what ruff can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: setup  ## this pipeline beside the imperative steps
	@$(PYTHON) -m bench $(ARGS)

bench-api: setup  ## the API and its proxy beside what they are measured against
	@$(PYTHON) -m bench.api $(ARGS)

down: environment  ## stop what set-up started, and nothing else
	@$(PYTHON) -m pipeline down

doctor: environment  ## what is here, and how to get what is missing
	@$(PYTHON) -m pipeline doctor

clean:  ## remove what was made in this folder: the environment, caches, reports
	@rm -rf .venv reports dist .coverage .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
