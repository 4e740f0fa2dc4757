# Two commands are enough: `make run` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
T      ?= tests
JOBS   ?= 2

.DEFAULT_GOAL := menu
.PHONY: menu setup run test test-debian check format flow golden bench torture lock clean

menu: ## this menu
	@echo "Caracal: what an AI agent may do, proof of what it did, and the end of its authority."
	@echo
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1|/' | column -t -s '|'

# --- start here

setup: $(READY) ## make .venv with everything in it
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed (set PYTHON=...)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3-venv is needed"; exit 2; }
	@echo "Installing into $(VENV) (about a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: $(READY) ## start everything, run the demo, keep serving (ARGS=--once: stop after the demo)
	@$(BIN)/caracal up --demo $(ARGS)

test: $(READY) ## all tests, on real servers (T=tests/store for one part, JOBS=0 for one process)
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile $(T)

# --- before each push

check: $(READY) ## format, lint, types, imports, fast tests
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache > /dev/null || $(BIN)/lint-imports --no-cache
	@$(BIN)/python -m pytest -q tests/events tests/policy/test_text.py tests/golden

format: $(READY) ## let the tools put the code in shape
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

# --- more

test-debian: $(READY) ## log, relay and projection contracts on Debian's postgresql and redis-server
	@deploy/debian/test.sh

flow: $(READY) ## aggregate -> event -> topics -> projections
	@$(BIN)/caracal flow

golden: $(READY) ## write tests/golden anew; the diff is the review
	@$(BIN)/python -m tests.golden.write

bench: $(READY) ## the measures of the design, medians and p99, into bench/latest.json
	@$(BIN)/python -m bench $(ARGS)

torture: $(READY) ## the long form of the fault tests (ARGS="--trials 400 --seed 7")
	@$(BIN)/python -m tests.torture $(ARGS)

lock: ## write requirements.lock anew (needs uv)
	@uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --all-extras pyproject.toml -o requirements.lock

clean: ## remove what make made
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
