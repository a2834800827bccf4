# make install: the environment in .venv    make sweep: the main job    make test: lint, types, tests
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SPACE  ?= search.yaml
PROCESSES ?= 2

.PHONY: install sweep test lint types clean

install: $(STAMP)

# A second call installs nothing: the stamp is newer than what says what to install.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,dashboard]'
	touch $@

sweep: $(STAMP)
	$(BIN)/python sweeps/run.py --space $(SPACE)

test: lint types
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadgroup

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
