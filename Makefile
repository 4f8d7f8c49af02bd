PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: run test check

# The main job: the quick robustness benchmark on the shipped models, then a page of its results.
run: $(INSTALLED)
	$(BIN)/absynth bench --preset quick
	$(BIN)/absynth report results/quick --out results/report \
		--certificates codebook-abs=docs/results/codebook-abs-certificates.parquet

test: $(INSTALLED)
	$(BIN)/python -m pytest

# What CI checks besides the tests.
check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
