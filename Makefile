# Two commands need nothing but Python, pip and make:
#   make quickstart   meta-train two optimizers on real data, compare them with SGD and Adam (under 15 minutes)
#   make test         the test suite
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: quickstart test check format docs install clean

quickstart: $(INSTALLED)
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

$(INSTALLED): pyproject.toml setup.cfg constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info
