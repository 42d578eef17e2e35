# Two commands need nothing but Python, pip and make:
#   make quickstart   meta-train two optimizers on real data, compare them with SGD and Adam (under 15 minutes)
#   make test         the test suite (installs all that developers need)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALLED := $(VENV)/.installed
DECLARED := pyproject.toml setup.cfg constraints.txt
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable

.PHONY: quickstart test check format docs install clean

quickstart: $(READY)
	$(BIN)/python -m benchmarks.quickstart

test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n 2
	L2O_CHECK_SHAPES=0 $(BIN)/python -m pytest -q

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

install: $(INSTALLED)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("l2o needs Python 3.10 or newer; $(PYTHON) is %d.%d. For example: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(READY): $(DECLARED) | $(BIN)/python
	@echo 'installing torch and a few others into $(VENV), some minutes ...'
	$(INSTALL) '.[plot]'
	@touch $@

$(INSTALLED): $(DECLARED) | $(BIN)/python
	@echo 'installing all that developers need into $(VENV), many minutes ...'
	$(INSTALL) '.[all]'
	@touch $@ $(READY)

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info
