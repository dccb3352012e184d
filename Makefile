# Two commands: `make reproduce` and `make test`. Each sets up .venv by itself, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: reproduce test lint clean help

help:
	@echo "make reproduce   run the core suite at preset quick and write its report"
	@echo "make test        run the tests"
	@echo "make lint        check style"
	@echo "make clean       remove .venv (results stay)"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"fdlab needs Python 3.11 to 3.13, and $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dask,media,spatial,speech,test]"
	@touch $@

reproduce: $(READY)
	$(BIN)/fdlab reproduce $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV)
