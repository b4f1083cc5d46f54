# `make run` and `make test` do everything on a fresh machine: they make .venv and install what they need first.
PYTHON ?= python3
BIN := .venv/bin
# One test process a core, each with one TensorFlow thread: faster than one process with all of them.
WORKERS ?= auto

.PHONY: run test test-slow test-ray test-long lint evidence pages clean

run: .venv/installed
	$(BIN)/python run_local_minima.py

test: .venv/developer
	$(BIN)/python -m pytest -q -m "not slow" -n $(WORKERS) --dist loadfile

test-slow: .venv/developer
	$(BIN)/python -m pytest -q -m "slow and not long" -n $(WORKERS) --dist loadfile

# Workers on Ray, which the other tests do without. One after the other, as each takes all cores. RAY picks some of them.
RAY ?= test
test-ray: .venv/cluster
	$(BIN)/python -m pytest -q -m "slow and not long" tests/harness/test_cluster.py -k "$(RAY)"

test-long: .venv/developer
	$(BIN)/python -m pytest -q -m long -n $(WORKERS) --dist loadfile

lint: .venv/developer
	$(BIN)/ruff check .

# Every number in README and docs follows from a kept run, and every verdict from today's rules: no training.
evidence: .venv/installed
	$(BIN)/python evidence.py

pages: .venv/installed
	$(BIN)/python evidence.py --write

clean:
	rm -rf .venv results

.venv/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 10) <= sys.version_info[:2] <= (3, 13) else "error: Python 3.10 to 3.13 is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/developer: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

.venv/cluster: .venv/developer requirements-cluster.txt
	$(BIN)/python -m pip install --quiet -r requirements-cluster.txt
	touch $@
