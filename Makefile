# Each target makes its own virtual environment in .venv when it is missing and reuses it after.
# Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow quality style

help:
	@echo "make demo       clean a noisy recording and hear its emotion; results in demo_results/"
	@echo "make test       the default tests (seconds to minutes)"
	@echo "make test-slow  the long tests"
	@echo "make quality    check the style"
	@echo "make style      mend the style"

demo: $(VENV)/.installed-demo
	$(BIN)/sparse-merit demo -o demo_results

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -m slow

quality: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, $(PYTHON) is $$("$(PYTHON)" --version 2>&1); name another: make PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "No virtual environment could be made. On Debian and Ubuntu mend it with: sudo apt-get install python3-venv"; exit 1; }

# The stamps are renewed when a dependency or a tested version changes.
$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[demo]"
	@touch $@

# The test extra holds the demo extra too, so both stamps are set.
$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[test]"
	@touch $(VENV)/.installed-demo $@
