# The few words of this project; each does all the set-up that it needs.
#   make demo        set up, then NTK-DFL beside its rivals on the digits, in about a minute
#   make test        set up, then the tests
#   make test-slow   the reproductions of papers
#   make test-flower  a federation under Flower, with the pinned flwr in an environment of its own
#   make test-lowest  most of the tests, with the lowest versions of all dependencies that are declared
#   make check       format, lint, types and layers: what CI asks before the tests
#   make bench       every file of benchmarks/ but the GPU's, and versions.py, which needs another checkout
#   make bench-gpu   the GPU's record in at most eight minutes, with PYTHON's own PyTorch and the images in DATA; no set-up
#   make docs        the documentation as a site in build/docs, with its tools; warnings and broken links are errors
#   make release-check  build wheel and source distribution, and try both in clean environments of PYTHONS, versions or paths
#   make lock        pin the newest versions of all dependencies in requirements.txt

PYTHON ?= python3
PYTHONS ?= 3.11 3.12 3.13 3.14
RECORD ?= gpu.json
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS := $(VENV)/.docs
LOWEST := .venv-lowest
FLOWER := .venv-flower
EXTRAS := network table huggingface flwr text tensorboard mlflow wandb trackio
# A worker a core and one more, as tests that start processes wait for them; each computes on one thread.
WORKERS ?= $(shell echo $$(( $$(OMP_NUM_THREADS= nproc 2>/dev/null || getconf _NPROCESSORS_ONLN) + 1 )))
WHAT ?= $(addprefix tests/,engines experiments federation methods tangent_steps tangents training transports)
UV := PATH="$(CURDIR)/$(BIN):$$PATH" VIRTUAL_ENV="$(CURDIR)/$(VENV)" uv
LOCK := --universal --python-version 3.11 --upgrade --generate-hashes --no-annotate --custom-compile-command "make lock" --quiet

.PHONY: demo test test-slow test-flower test-lowest check bench bench-gpu docs release-check lock setup clean
.DEFAULT_GOAL := demo
.DELETE_ON_ERROR:

demo: $(READY)
	$(BIN)/fedtangent demo

test: $(READY)
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

test-slow: $(READY)
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m slow

test-flower: $(FLOWER)/.ready
	$(BIN)/pytest -m slow tests/flower

test-lowest: $(LOWEST)/.ready
	PYTHONPATH="$(CURDIR)/src" $(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(WHAT)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(READY)
	@set -e; for file in $(filter-out benchmarks/gpu% benchmarks/versions.py,$(wildcard benchmarks/*.py)); do echo "== $$file"; $(BIN)/python $$file; done

# Runs from the checkout: a machine with a GPU that is lent for minutes has no time for a set-up.
bench-gpu:
	PYTHONPATH=src $(PYTHON) benchmarks/gpu.py --out $(RECORD) $(if $(DATA),--data-dir $(DATA))

docs: $(DOCS)
	rm -rf build/docs
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs build/docs
	$(BIN)/python docs/check_links.py build/docs
	@echo "Open build/docs/index.html."

release-check: $(READY)
	$(BIN)/python .ci/release_check.py $(PYTHONS)

# flwr is apart, since its upper bounds would hold all else back; outside of this folder, pyproject.toml overrides none of them.
lock: $(READY)
	$(UV) pip compile $(LOCK) $(addprefix --extra ,$(EXTRAS)) --group dev --output-file requirements.txt pyproject.toml
	$(UV) pip compile $(LOCK) --constraints requirements.txt --group docs --output-file requirements-docs.txt
	$(UV) pip compile $(LOCK) --resolution lowest-direct --extra network --group test --output-file requirements-lowest.txt pyproject.toml
	$(UV) --directory / pip compile $(LOCK) --extra flower --output-file $(CURDIR)/requirements-flower.txt $(CURDIR)/pyproject.toml
	echo uv | $(UV) pip compile $(LOCK) --output-file requirements-uv.txt -

setup: $(READY)

clean:
	rm -rf $(VENV) $(LOWEST) $(FLOWER) dist build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# The stamp is written last, so a set-up that was interrupted is done again. With a uv on the PATH no pip is needed,
# and no ensurepip, which some systems leave out of Python; without one, pip brings the pinned uv.
$(READY): requirements.txt requirements-uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "\`PYTHON\` must be Python 3.11 or newer; got $(PYTHON) ($$($(PYTHON) --version 2>&1 | tail -n 1))." \
	        "Name another: make PYTHON=python3.12." >&2; exit 2; }
	@set -e; if uv --version >/dev/null 2>&1; then \
	    $(PYTHON) -m venv --without-pip $(VENV); \
	else \
	    $(PYTHON) -m venv $(VENV); \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt; \
	fi
	@echo "Filling $(VENV), once: PyTorch takes a few gigabytes, so the download may take minutes."
	$(UV) pip install --compile-bytecode --require-hashes -r requirements.txt
	$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(DOCS): requirements-docs.txt $(READY)
	$(UV) pip install --quiet --require-hashes -r requirements-docs.txt
	@touch $@

# Environments apart, filled from outside of this folder, where pyproject.toml overrides no bounds.
$(LOWEST)/.ready $(FLOWER)/.ready: .venv-%/.ready: requirements-%.txt $(READY)
	rm -rf $(@D)
	$(PYTHON) -m venv --without-pip $(@D)
	$(UV) --directory / pip install --quiet --compile-bytecode --python "$(CURDIR)/$(@D)" --require-hashes -r "$(CURDIR)/$<"
	@touch $@
