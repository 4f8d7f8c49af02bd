PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
TOOLS := .venv/.installed-tools
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: run test check docs bench results build release audit-dependencies

# The main job: the quick benchmark of the shipped models, attacked and proven, then a page of its results.
run: $(INSTALLED)
	$(BIN)/absynth bench --preset quick
	$(BIN)/absynth report results/quick --out results/report

# Every file of tests in one process, as many at a time as there are cores.
test: $(TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

# What CI checks besides the tests.
check: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation, in site/; it runs the notebook, and whatever would be a warning stops it (with --quiet, mkdocs
# would count none). The variable silences the theme's notice about its successor.
docs: $(TOOLS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The page on speed, docs/speed.md, and its figure, measured here; beside FAISS, if the extra `bench` is installed. The
# variable silences the profiler.
bench: $(INSTALLED)
	KINETO_LOG_LEVEL=9 $(BIN)/python docs/tools/speed/speed.py

# The results page, docs/results.md, from the records in docs/results/benchmark.
results: $(INSTALLED)
	$(BIN)/python docs/tools/results/results.py

# The sdist and the wheel of the last commit in dist/, if two builds give the same bytes.
build: $(TOOLS)
	$(BIN)/python tools/release.py --no-install

# The same, once the wheel has classified a digit in a clean environment of the pinned versions.
release: $(TOOLS)
	$(BIN)/python tools/release.py

# Known vulnerabilities of what is installed, which takes the network.
audit-dependencies: $(TOOLS)
	$(BIN)/python tools/audit_dependencies.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) '.[report]'
	touch $@

# The tools of developers, which the main job can do without, are installed when they are first needed.
$(TOOLS): $(INSTALLED)
	$(INSTALL) '.[dev]'
	touch $@
