.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench clean
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(READY) ## make .venv with the pinned versions of constraints.txt

$(READY): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[backbones,milvus,tables,trackers]' --requirement requirements-dev.txt
	touch $(READY)

demo: $(READY) ## the whole journey on bundled digits; writes out/demo/report.html
	$(BIN)/likewise demo --out out/demo

test: $(READY) ## run all tests, warnings as errors
	$(BIN)/python -m pytest

check: $(READY) ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY) ## put all code into its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## run the benchmarks of benchmarks/
	$(BIN)/python -m pip install --quiet --no-deps --requirement benchmarks/requirements.txt
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/losses.py
	$(BIN)/python benchmarks/verification.py
	$(BIN)/python benchmarks/index.py
	$(BIN)/python benchmarks/gallery.py
	$(BIN)/python benchmarks/evaluation.py

clean: ## remove what the other targets made
	rm -rf $(VENV) out .mypy_cache .pytest_cache .ruff_cache .hypothesis
