.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all durations lowest check format docs package bench mutants clean
VENV := .venv
BIN := $(VENV)/bin
CORE := $(VENV)/core
READY := $(VENV)/ready
LOWEST := .venv-lowest
EXTRAS := backbones,export,faces,milvus,serve,tables,trackers

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make .venv with the pinned versions of constraints.txt

$(CORE): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--editable .
	touch $(CORE)

$(READY): $(CORE) requirements-dev.txt
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[$(EXTRAS),docs]' --requirement requirements-dev.txt
	touch $(READY)

demo: $(CORE) ## the whole journey on bundled digits; writes out/demo/report.html
	$(BIN)/likewise demo --out out/demo

# A process for each core, which computes on one thread: OpenMP threads that wait for a core spin.
test: $(READY) ## run the quick tests: all but those of tests/slow.txt
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile -m 'not slow'

test-all: $(READY) ## run all tests, warnings as errors
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

durations: $(READY) ## run all tests one by one and write tests/slow.txt anew
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m pytest -p measure
	$(BIN)/python tests/measure.py

lowest: $(LOWEST)/ready ## run all tests on the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python -m pytest -W ignore::DeprecationWarning -W ignore::FutureWarning

# Every lower bound of pyproject.toml as an exact version. torch stays the one of constraints.txt:
# an older one has no build for every machine. So do the tools that only the tests use. An old
# release warns of what newer ones of its own dependencies will drop: no fault of ours.
$(LOWEST)/ready: pyproject.toml constraints.txt
	python3 -m venv $(LOWEST)
	grep -oE '[a-z-]+>=[0-9.]+' pyproject.toml | grep -v '^torch>' | sed 's/>=/==/' > $(LOWEST)/constraints.txt
	grep -E '^(torch|torchvision|hypothesis|pytest)==' constraints.txt >> $(LOWEST)/constraints.txt
	PIP_CONSTRAINT=$(LOWEST)/constraints.txt $(LOWEST)/bin/python -m pip install --quiet \
		--disable-pip-version-check --editable '.[$(EXTRAS)]' hypothesis pytest
	touch $(LOWEST)/ready

check: $(READY) ## formatting, lint, spelling, words, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/python tests/words.py
	$(BIN)/mypy

format: $(READY) ## put all code into its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/docs ## build the documentation into out/site; every warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

$(VENV)/docs: $(CORE)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[docs]'
	touch $(VENV)/docs

package: $(READY) ## build wheel and source package into dist/, and try both in empty folders
	PIP_CONSTRAINT=constraints.txt $(BIN)/python tests/package.py

bench: $(READY) ## run the benchmarks of benchmarks/
	$(BIN)/python -m pip install --quiet --no-deps --requirement benchmarks/requirements.txt
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/losses.py
	$(BIN)/python benchmarks/chunks.py --only time
	$(BIN)/python benchmarks/verification.py
	$(BIN)/python benchmarks/index.py
	$(BIN)/python benchmarks/match.py
	$(BIN)/python benchmarks/loaded.py
	$(BIN)/python benchmarks/gallery.py
	$(BIN)/python benchmarks/evaluation.py

mutants: $(READY) ## change one operator at a time; list the changes that no test notices
	$(BIN)/python benchmarks/mutants.py --out out/mutants.jsonl

clean: ## remove what the other targets made
	rm -rf $(VENV) $(LOWEST) out .mypy_cache .pytest_cache .ruff_cache .hypothesis
