# Every target works alone on a fresh clone: only python3 (>= 3.11) and make are needed.
# A user's folder of pairs: make demo DATA=path/to/pairs
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
RUN    := runs/demo
WORKERS ?= 2
PAIRS  := $(if $(DATA),data=folder 'data.root="$(DATA)"')

.DEFAULT_GOAL := help
.PHONY: help setup demo test mutants test-reliability test-browser lint type bench lock docs dist clean

help:            ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/ - /' | awk -F' - ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(STAMP)  ## create .venv and install from constraints.txt (once)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "clipfuse needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12 setup" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "python could not make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -E '^uv==' constraints.txt)"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@

# One thread each: two jobs share two cores.
demo: export OMP_NUM_THREADS := 1
demo: setup      ## train three losses, compare them and fuse, in runs/demo; DATA=folder takes your pairs
	@rm -rf $(RUN)
	$(BIN)/clipfuse train -m experiment=quick loss=pixel,ldfusion,promptfusion $(PAIRS) \
	  callbacks.test.save_sources=true hydra.launcher.max_parallel=2 hydra.sweep.dir=$(RUN)
	$(BIN)/clipfuse compare $(RUN) --html $(RUN)/report.html
	$(BIN)/clipfuse fuse --checkpoint $(RUN)/0/checkpoints/last.ckpt --out $(RUN)/fused \
	  --infrared $(RUN)/0/test/infrared --visible $(RUN)/0/test/visible
	@echo "infrared, visible and fused side by side, one panel per loss: $(RUN)/{0,1,2}/test/panel.png"
	@echo "images fused by the command line: $(RUN)/fused"
	@echo "which loss is best, by how much, how sure: $(RUN)/report.html"

bench: setup     ## speed and memory, as ratios against a plain alternative
	@for file in experiments/benchmarks/*.py; do echo "== $$file"; $(BIN)/python -m "experiments.benchmarks.$$(basename $$file .py)"; done

docs: setup      ## the documentation site, in site/: without a network, once its packages are there
	@$(BIN)/python -c 'import material, mkdocstrings' 2>/dev/null || \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "the site: site/index.html; with its search: python3 -m http.server --directory site"

dist: setup      ## wheel and sdist in dist/, checked for the package index; the size of both
	@rm -rf dist
	$(BIN)/python -m build --installer uv
	$(BIN)/python -m twine check --strict dist/*
	@ls -l dist | awk 'NR > 1 {printf "%s: %.1f MB\n", $$NF, $$5 / 1e6}'

lock:            ## renew constraints.txt from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	  --no-header --no-annotate --no-emit-index-url --upgrade --quiet --output-file constraints.txt

test: setup lint type   ## lint, types and the whole test suite, in WORKERS=2 processes
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

mutants: setup          ## small wrong changes to the source, each of which a test must notice
	$(BIN)/python tests/mutants.py --jobs $(WORKERS)

test-reliability: setup  ## the long tests: clusters, searches, interruptions, many faults on purpose
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev,sweep]'
	FAULT_TABLE=experiments/reliability/README.md $(BIN)/python -m pytest -m 'reliability or faults'

test-browser: setup     ## the report of a comparison in Debian's chromium, which it installs if it may
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[browser]'
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -qqy --no-install-recommends chromium; } || { \
	  echo "no chromium: install it (Debian: apt-get install chromium) and try again" >&2; exit 2; }
	$(BIN)/python -m pytest -m browser tests/browser

lint: setup      ## ruff
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: setup      ## mypy
	$(BIN)/mypy

clean:           ## remove what runs and tests leave behind (not .venv)
	rm -rf runs build dist site .hypothesis .pytest_cache .mypy_cache .ruff_cache
