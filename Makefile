# Everything begins with a virtual environment in .venv, which the first command makes. `make` alone lists the commands.
#
# torch is installed in a step of its own, so that you choose its build:
#   make demo                                                      what your package index calls torch
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu     CPU only: 200 MB instead of several GB on Linux
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cu130   CUDA 13.0; pytorch.org lists what fits your driver
#   make demo TORCH=torch==2.4.1                                   another version, 2.4 or newer
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
JOBS ?= 2

export PIP_DISABLE_PIP_VERSION_CHECK = 1
# glibc: keep what a batch frees for the next one; handing it back and forth is a tenth of a training step on a CPU
export MALLOC_MMAP_THRESHOLD_ = 1000000000
export MALLOC_TRIM_THRESHOLD_ = 2000000000

# where scans lie in the brain of the template, which takes seconds to find, is kept for the next notebook
export KIT_CACHE ?= $(CURDIR)/runs/cache/brains

BIN := .venv/bin
READY := .venv/.ready
PYTEST := $(BIN)/python -m pytest -q
SPREAD := KIT_CACHE= OMP_NUM_THREADS=1 $(PYTEST) -n $(JOBS) --dist loadfile

# $(call step,name,command): says what is done, how it ended and how long it took, and passes on the exit code
step = @printf '\n== %s\n' '$(1)'; begun=$$(date +%s); ( $(2) ); code=$$?; end=done; [ $$code -eq 0 ] || end=FAILED; \
	printf '== %s: %s after %d s\n' '$(1)' $$end $$(( $$(date +%s) - begun )); exit $$code

.PHONY: help demo test check lab notebooks clean lint unit unit-quick run-notebooks compare-notebook run-browser cohort
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) cohort  ## run all notebooks at their quick profile and make HTML pages of them
	$(call step,notebooks to pages,$(BIN)/python -m kit demo --out runs/demo --jobs $(JOBS))

test: $(READY) lint unit run-notebooks compare-notebook run-browser  ## all tests: style and floors and units and doctests and notebooks and browser
	@printf '\nall tests passed\n'

check: $(READY) lint unit-quick  ## the tests of some three minutes: no notebooks and nothing slow

lab: $(READY)  ## open the notebooks in JupyterLab
	cd notebooks && ../$(BIN)/python -m jupyterlab $(LAB_OPTIONS)

notebooks: $(READY) cohort  ## run all notebooks in place and clean them to be committed
	$(call step,notebooks run and cleaned,$(BIN)/python -m kit commit)

clean:  ## remove caches and the pages and copies that demo and tests left in runs/; trained runs and data/ and .venv stay
	rm -rf .pytest_cache .ruff_cache .import_linter_cache .hypothesis build runs/demo runs/test runs/commit
	find kit tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

lint: $(READY)
	$(call step,ruff: lint,$(BIN)/ruff check)
	$(call step,ruff: format,$(BIN)/ruff format --check)
	$(call step,import-linter: floors of the package,$(BIN)/lint-imports)

unit: $(READY)
	$(call step,unit tests and doctests,$(SPREAD) -m "not notebooks and not browser")

unit-quick: $(READY)
	$(call step,quick unit tests and doctests,$(SPREAD) -m "not notebooks and not browser and not slow")

run-notebooks: $(READY) cohort
	$(call step,notebooks by papermill,OMP_NUM_THREADS=1 $(PYTEST) -n $(JOBS) --dist loadgroup -m notebooks tests/test_notebooks.py)

cohort: $(READY)
	$(call step,built-in cohort,$(BIN)/python -m kit phantom data_manifest.csv)

compare-notebook: $(READY)
	$(call step,notebook 01: stable cells as committed,$(PYTEST) --nbval-lax notebooks/01_data_statistics.ipynb)

run-browser: $(READY)
	$(call step,viewers in JupyterLab and pages in Chromium,$(PYTEST) -m browser tests/test_browser.py tests/test_pages_in_browser.py)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'Python 3.11 or newer is needed: make PYTHON=/path/to/python3.12 ...' >&2; exit 1; }
	$(call step,virtual environment in .venv,[ -x $(BIN)/pip ] || $(PYTHON) -m venv .venv)
	$(call step,install $(TORCH),$(BIN)/python -m pip install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)")
	$(call step,install the kit and what it needs,$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]")
	@touch $@
