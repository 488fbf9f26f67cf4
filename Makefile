# Every target sets up what it needs in .venv; without make, README gives the same as plain commands.
PYTHON ?= python3
VENV   ?= .venv

.PHONY: search test lint docs cluster-test
search: ARGS ?= device=vpu budget_ms=30
search: $(VENV)/.ready
	$(VENV)/bin/python -m nas.search $(ARGS)

test: $(VENV)/.ready-dev
	$(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

# Slurm and PostgreSQL, started in temporary folders; skipped with the reason where they are not installed.
cluster-test: $(VENV)/.ready-dev
	$(VENV)/bin/pip install -q -c constraints.txt -e '.[postgres]'
	$(VENV)/bin/python -m pytest -m cluster tests/cluster $(ARGS)

lint: $(VENV)/.ready-dev
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

# The site, in build/site; nothing in it is loaded from the network.
docs: $(VENV)/.ready-dev
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(VENV)/bin/pip install -q -c constraints.txt -e '.[dev]'
	touch $@
