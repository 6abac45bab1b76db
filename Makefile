# Needs python3 (3.11 or newer) and make. Everything else is installed into .venv, from requirements.lock.
.DEFAULT_GOAL := help
.PHONY: help install demo test test-cluster check base bench lock clean moved
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread per test process: small tensors gain nothing from more, and the processes share the cores.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

export PYTHONSAFEPATH := 1
export UV_PYTHON_DOWNLOADS := never

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## create .venv, install the pinned requirements and this project (again only when they change)

demo: install ## grow a tree, tune four ways, measure what was learned and what was lost, write a report
	@$(BIN)/perennial demo $(ARGS)

# pytest's 5: ARGS selected nothing here, perhaps in the other call. tests/distributed has one of its own: its two processes want both cores.
OR_NONE = || [ $$? -eq 5 ]
test: install check ## check, then run the tests; ARGS="-k words" passes options to pytest
	$(TEST_ENV) $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal $(ARGS) $(OR_NONE)
	$(TEST_ENV) $(BIN)/python -m pytest tests/distributed $(ARGS) $(OR_NONE)

test-cluster: install ## run the tests that start a Slurm of their own (slurm-wlm and munge must be installed; some 3 minutes)
	$(TEST_ENV) $(BIN)/python -m pytest tests/cluster $(ARGS)

check: install ## ruff, mypy and the law train → {model, data}
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

base: install ## train the Terrarium's base model again, in its four stages
	@$(BIN)/perennial base $(ARGS)

BENCHES := $(sort $(basename $(notdir $(wildcard scripts/bench/*.py))))
bench: install ## run every benchmark behind a speed claim, or one of them: NAME=startup
	$(if $(filter-out $(BENCHES),$(NAME)),$(error no benchmark named "$(NAME)"; there are: $(BENCHES)))
	@set -e; for name in $(or $(NAME),$(BENCHES)); do $(BIN)/python scripts/bench/$$name.py $(ARGS); done

lock: install ## pin the newest allowed requirements in requirements.lock
	$(find_uv); $$uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade --quiet \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file requirements.lock

clean: ## delete .venv, runs/ (every trained model in it) and all caches
	rm -rf $(VENV) runs build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find train model data tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# --- how .venv comes to be -------------------------------------------------------------------------------------------

# The machine's uv where one works (a version manager's shim may not), else the one inside .venv.
find_uv = if uv --version >/dev/null 2>&1; then uv=uv; else uv=$(BIN)/uv; fi

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

define make_venv
if ! $(PYTHON) -c '$(NEW_ENOUGH)'; then \
	echo "error: Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; \
fi; \
rm -rf $(VENV); \
if [ "$$uv" = uv ]; then uv venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV); \
elif ! $(PYTHON) -m venv $(VENV); then \
	rm -rf $(VENV); \
	echo "error: '$(PYTHON) -m venv' failed. On Debian or Ubuntu: apt-get install python3-venv. Or install uv, which needs no venv module." >&2; exit 1; \
fi
endef

# The stamp holds the folder's path: an environment that was moved or copied points to the old place, so it is made anew.
$(STAMP): requirements.lock pyproject.toml $(if $(filter-out $(shell cat $(STAMP) 2>/dev/null),$(CURDIR)),moved)
	@set -e; $(find_uv); \
	if [ -e $(STAMP) ] && [ "$$(cat $(STAMP))" != "$(CURDIR)" ] || ! $(BIN)/python -c '$(NEW_ENOUGH)' 2>/dev/null; then $(make_venv); fi; \
	if [ "$$uv" != uv ] && [ ! -x $(BIN)/uv ]; then $(BIN)/python -m pip install --quiet uv; fi; \
	$$uv pip install --python $(BIN)/python --requirement requirements.lock; \
	$$uv pip install --python $(BIN)/python --no-deps --editable .; \
	echo "$(CURDIR)" > $(STAMP)
