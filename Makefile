# `make demo` and `make test` do the whole set-up themselves: a virtual environment in $(VENV), stamped when complete.
VENV ?= .venv
PYTHON ?= python3
RUN ?= runs/demo
ROWS ?= runs/faults.json
BIN := $(VENV)/bin
READY := $(VENV)/.ok
ENGINES := $(VENV)/.engines
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow test-faults test-cluster faults check bench clean
.DEFAULT_GOAL := test

$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	@$(BIN)/python -m compileall -q dagrad_bus workers topology tools  # pip does it, but not for an editable install
	@touch $@

demo: $(READY)  ## four workers learn together; figures in $(RUN)
	@rm -rf $(RUN)
	$(BIN)/dagrad run -n 4 --dir $(RUN) -- $(BIN)/python -m dagrad_bus.workers.digits --steps 200 --pace 0.06

test: $(READY)  ## the fast tests
	$(BIN)/python -m pytest -q -m "not slow and not faults and not cluster"

test-slow: $(READY)  ## tests that start processes, and the simulator's seeds
	$(BIN)/python -m pytest -q -m "slow and not faults and not row and not cluster" --timeout 120

test-faults: $(READY)  ## faults on real processes; some rows need root
	$(BIN)/python -m pytest -q -m faults tests/faults --timeout 300

$(ENGINES): $(READY)
	@$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev,cluster]"
	@touch $@

test-cluster: export DAGRAD_REQUIRE_ENGINES ?= $(if $(CI),1,)
test-cluster: $(ENGINES)  ## every launch engine for real; as root it installs them, in CI a missing one is a failure
	@tests/cluster/packages.sh
	$(BIN)/python -m pytest -q -m cluster tests/cluster --timeout 300

faults: $(READY)  ## the fault matrix: every test that proves a row, then the table (docs/faults.md)
	@rm -f $(ROWS).again
	$(BIN)/python -m pytest -q -m row --timeout 300 --rows $(ROWS) || \
	$(BIN)/python -m pytest -q -m row --timeout 300 --last-failed --last-failed-no-failures none --rows $(ROWS).again || true
	$(BIN)/python -m dagrad_bus.faults.matrix $(ROWS) $$(ls $(ROWS).again 2>/dev/null)

check: $(READY)  ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-cache --no-logo

bench: $(READY)  ## cost of the exchange, the hand-off, the bus, a straggler, a kill, a start
	for script in exchange handoff bus faults start; do $(BIN)/python benchmarks/bench_$$script.py || exit; done

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
