PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: setup demo test versions soak lint audit

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo 'Python 3.11, 3.12 or 3.13 is needed (TensorFlow has none for newer ones): make setup PYTHON=python3.13'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement requirements-dev.txt --editable .
	@touch $@

demo: setup
	$(RUN) -m msl_jax.main --config=configs/phantom.py --workdir=runs/phantom

test: setup
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

versions:
	.ci/versions

soak: setup
	$(RUN) -m pytest -m soak

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

audit: setup
	$(RUN) -m pip install --quiet 'pip-audit~=2.10'
	$(RUN) -m pip_audit --strict --requirement requirements.txt
