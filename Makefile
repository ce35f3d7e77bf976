# Everything runs from .venv, which is made when it is missing. The system's Python is used for `python3 -m venv` only.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Both cores of a small machine; give WORKERS=8 on a larger one.
WORKERS ?= 2
RUNS ?= runs
TRAIN := $(BIN)/python -m experiments.two_layer

.DEFAULT_GOAL := help
.PHONY: help venv demo pictures test test-all lint types bench clean

help:
	@echo "make demo      train the two-layer classifier on xor and on breast_cancer; results in $(RUNS)/"
	@echo "make test      ruff, mypy, tests, doctests and README snippets (what CI runs)"
	@echo "make test-all  the same with everything marked slow"
	@echo "make lint | types | bench | pictures | clean"

venv: $(READY)

# The stamp comes last, so that an interrupted installation is done again.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,experiments]'
	@touch $@

demo: $(READY)
	$(TRAIN) --data xor --out $(RUNS)/xor
	$(TRAIN) --data breast_cancer --out $(RUNS)/breast_cancer

# The pictures that README.md shows.
pictures: $(READY)
	$(TRAIN) --data xor --out $(RUNS)/pictures
	mkdir -p docs/images
	cp $(RUNS)/pictures/stages.png docs/images/two_layer_stages.png

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

test: lint types
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" --doctest-modules tests funcgrad reference

test-all: lint types
	$(BIN)/python -m pytest -n $(WORKERS) --doctest-modules tests funcgrad reference

bench: $(READY)
	$(BIN)/python -m experiments.bench

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info $(RUNS)
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
