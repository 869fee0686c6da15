SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
LOCKS := infra/requirements
RUN := $(VENV)/run.stamp
DEV := $(VENV)/dev.stamp

$(RUN): $(LOCKS)/run.txt $(LOCKS)/torch.txt $(LOCKS)/uv.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r $(LOCKS)/uv.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet -r $(LOCKS)/run.txt
	$(BIN)/pip install --quiet --require-hashes --no-deps -r $(LOCKS)/torch.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	touch $@
