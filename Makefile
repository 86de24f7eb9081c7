# make demo: the whole job on the example project.   make test: all checks and tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests wait for servers and deaths half of their time, so one more than there are cores.
WORKERS := $(shell $(PYTHON) -c "import os; print(os.cpu_count() + 1)")

.PHONY: setup demo test check docs site clean

setup: $(STAMP)

# torch comes first and pinned: a plain `torch` would pull the CUDA build, gigabytes of it.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25"
	$(BIN)/python -m pip install --quiet $(shell grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

demo: setup
	$(BIN)/burnish pull smollm2-135m-instruct
	$(BIN)/burnish pull all-minilm-l6-v2
	$(BIN)/burnish compare examples/support-desk/triage.yaml || [ $$? -eq 1 ]  # 1 is a "no"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/burnish pull smollm2-135m-instruct
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 30

docs: setup
	$(BIN)/python -m tests.write_docs

site: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site
