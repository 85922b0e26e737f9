PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: setup demo test soak lint audit

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed: make setup PYTHON=python3.11'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement requirements-dev.txt --editable .
	@touch $@

demo: setup
	$(RUN) -m msl_jax.main --config=configs/phantom.py --workdir=runs/phantom

test: setup
	$(RUN) -m pytest -n 2 --dist loadfile

soak: setup
	$(RUN) -m pytest -m soak

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

audit: setup
	$(RUN) -m pip install --quiet 'pip-audit~=2.10'
	$(RUN) -m pip_audit --strict --requirement requirements.txt
