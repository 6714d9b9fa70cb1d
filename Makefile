# `make demo` and `make test` each do all their set-up; they need Python 3.11 or later, nothing else.
PYTHON ?= python3
# One more than there are processors: some tests wait.
TESTERS := $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
VENV := .venv
STAMP := $(VENV)/.installed
MINUTES ?= 10
CALLS ?= 10000

.PHONY: demo test storm accounting soak bench lint clean

demo: $(STAMP)
	$(VENV)/bin/gateway demo

test: $(STAMP)
	$(VENV)/bin/pytest -n $(TESTERS) --dist worksteal

storm: $(STAMP)  # `make storm MINUTES=10`: see docs/routing.md
	PYTHONPATH=tests $(VENV)/bin/python -m storm --minutes $(MINUTES)

accounting: $(STAMP)  # `make accounting CALLS=10000`: the ledger against what engines have served
	PYTHONPATH=tests $(VENV)/bin/python -m accounting --calls $(CALLS)

soak: $(STAMP)  # `make soak MINUTES=60`: all plugins under load and faults; see docs/performance.md
	PYTHONPATH=tests $(VENV)/bin/python -m soak --minutes $(MINUTES)

bench: $(STAMP)  # `make bench ARGS=--quick`: beside other gateways; see docs/performance.md
	PYTHONPATH=tests $(VENV)/bin/python -m bench $(ARGS)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis
