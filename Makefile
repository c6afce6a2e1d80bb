# make train, make test: everything else they need (virtual environment, packages) is made on the way.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install train test test-long test-all lint types bench docs site lock clean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

install: $(VENV)/dev  ## virtual environment with AnchorLab, its tests and its tools

train: $(VENV)/base  ## train on the built-in data (three minutes on two cores); ARGS="anchor.ratios=[0.5,1,2]" changes settings
	$(BIN)/python train.py $(ARGS)

test: $(VENV)/dev  ## run the tests, all but the long ones (under ten minutes on two cores); ARGS="-k recall" picks some
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-long: $(VENV)/dev  ## whole trainings, sweeps, killed runs, servers: twice as long
	$(BIN)/python -m pytest -n 2 -m "long and not slow" $(ARGS)

test-all: $(VENV)/dev  ## all tests: also those that take minutes each, and those on a Slurm that they start (apt-get install slurm-wlm munge; as root)
	$(BIN)/python -m pytest -n 2 -m "long or not long" $(ARGS)

lint: $(VENV)/dev  ## ruff: style and formatting; deptry: imports and dependencies agree; links between the pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/deptry .
	$(BIN)/python docs/check_links.py

types: $(VENV)/dev  ## pyright
	$(BIN)/pyright

bench: $(VENV)/dev  ## speed against torchvision and others, as ratios; ARGS="recall --repeats 9" picks and sets
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/base  ## draw the pictures of docs/ anew
	$(BIN)/python docs/draw.py

site: $(VENV)/dev  ## the documentation as a site with the API and search: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lock: $(VENV)/dev  ## resolve requirements.lock anew
	$(BIN)/uv pip compile --universal --all-extras --no-annotate --no-header --python-version 3.11 \
		--upgrade pyproject.toml -o requirements.lock

clean:  ## remove the virtual environment and caches; runs stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist site

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "AnchorLab needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# requirements.lock pins the versions that were tested together; pyproject.toml says what else should work.
$(VENV)/base: pyproject.toml requirements.lock | $(VENV)/bin/python
	$(PIP) install -c requirements.lock -e '.[lite0]'
	@touch $@

$(VENV)/dev: pyproject.toml requirements.lock | $(VENV)/bin/python
	$(PIP) install -c requirements.lock -e '.[dev]'
	@touch $@ $(VENV)/base
