# make demo   the main job on real data: MovieLens 100K to a SavedModel
# make test   the whole test suite
# make quick  lint and the fast tests, in a few minutes
# make check  lint, types, import directions, documentation and all tests
# make docs   the documentation, built into build/site
# make bench  the benchmarks, written to benchmarks/RESULTS.md
# make quality  all models on five data sets (up to three hours), written to docs/quality.md

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test quick lint types imports docs check bench quality clean
.DEFAULT_GOAL := demo

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; ok = (3, 11) <= v < (3, 14); \
	sys.exit(0 if ok else f"recdistill needs Python 3.11 to 3.13; {sys.executable} is \
	{v.major}.{v.minor}. Name another one: make demo PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the locked packages into .venv (about 700 MB to download, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/recdistill run pipelines/movielens_100k.toml

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

quick: $(INSTALLED)
	$(BIN)/ruff check --quiet .
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

imports: $(INSTALLED)
	$(BIN)/lint-imports

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

check: lint types imports docs test

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

quality: $(INSTALLED)
	$(BIN)/python -m benchmarks.quality

clean:
	rm -rf .venv runs export build .mypy_cache .import_linter_cache .ruff_cache .pytest_cache
