# `make demo` and `make test` each do all their set-up; they need Python 3.11 or later, nothing else.
PYTHON ?= python3
# One more than there are processors: some tests wait.
TESTERS := $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
VENV := .venv
STAMP := $(VENV)/.installed
COMPILE = $(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade \
	--generate-hashes --custom-compile-command 'make lock'
# Environments without the gateway itself.
BARE = %-lock %-clients %-clients-2 %-agents
# A machine without a C compiler gets one as a package, for the native kernel.
COMPILER = $*/bin/python gateway/kernel/build.py --find >/dev/null || \
	$*/bin/python -m pip install --quiet --require-hashes -r requirements/zig.txt || true
# Coding agents that npm has; requirements/agents.in has those that pip has.
AGENTS = @anthropic-ai/claude-code@2.1.332 @openai/codex@0.171.0 opencode-ai@1.18.33 \
	@qwen-code/qwen-code@0.24.4 @mariozechner/pi-coding-agent@0.73.1
# Tests start hundreds of processes: with this set, each would compile the gateway anew, for 0.5 s.
export PYTHONDONTWRITEBYTECODE =
MINUTES ?= 10
CALLS ?= 10000
PROCESSES ?= 1
KILLS ?= 100
LINES ?= 10000
ITEMS ?= 1000000
INPUTS ?= 1000000
PAGES ?= 100

.PHONY: kernel demo test storm accounting kills batch-kills batch-scale clients agents soak bench fuzz lint lock clean \
	test-latest test-lowest test-reworded simulate-day simulate-routing simulate-weeks open-pages picture

# Compiles the native kernel if its sources are newer; without one the gateway runs in Python.
kernel: $(STAMP)
	@$(VENV)/bin/python gateway/kernel/build.py || true

demo: kernel
	$(VENV)/bin/gateway demo

test: kernel
	$(VENV)/bin/pytest -n $(TESTERS) --dist worksteal

test-latest:  # with the newest of all that is needed, as of now
	rm -rf $(VENV)-latest
	$(PYTHON) -m venv $(VENV)-latest
	$(VENV)-latest/bin/python -m pip install --quiet --editable '.[dev]'
	$(VENV)-latest/bin/python -m pip list
	$(VENV)-latest/bin/pytest -n $(TESTERS) --dist worksteal

test-reworded: kernel  # while libraries say everything in other words, see tests/support/plugins/rewording.py
	PYTHONPATH=tests $(VENV)/bin/pytest -p support.plugins.rewording -n $(TESTERS) --dist worksteal

test-lowest: $(VENV)-lowest/.installed  # with the oldest that pyproject.toml allows
	@$(VENV)-lowest/bin/python gateway/kernel/build.py || true
	$(VENV)-lowest/bin/pytest -n $(TESTERS) --dist worksteal

lock: $(VENV)-lock/.installed  # writes requirements/ anew, with the newest of all that is needed
	$(COMPILE) --all-extras -o requirements/dev.txt pyproject.toml
	$(COMPILE) -c requirements/dev.txt -o requirements/run.txt pyproject.toml
	$(COMPILE) --resolution lowest-direct -o $(VENV)-lock/lowest.txt pyproject.toml
	$(COMPILE) --resolution lowest-direct --all-extras -c $(VENV)-lock/lowest.txt --no-annotate \
		-o requirements/lowest.txt pyproject.toml
	$(COMPILE) -o requirements/clients.txt requirements/clients.in
	$(COMPILE) -o requirements/clients-2.txt requirements/clients-2.in
	$(COMPILE) -o requirements/agents.txt requirements/agents.in
	echo uv | $(COMPILE) -o requirements/lock.txt -
	echo ziglang | $(COMPILE) -o requirements/zig.txt -

storm: kernel  # `make storm MINUTES=10`: see docs/routing.md
	PYTHONPATH=tests $(VENV)/bin/python -m storm --minutes $(MINUTES)

accounting: kernel  # `make accounting CALLS=10000`: the ledger against what engines have served
	PYTHONPATH=tests $(VENV)/bin/python -m accounting --calls $(CALLS) --processes $(PROCESSES)

kills: kernel  # `make kills KILLS=1000`: gateways killed under load have each trace, see docs/capture.md
	$(VENV)/bin/pytest -m slow --kills $(KILLS) tests/trace_capture/store/test_capture_kill.py -k many

batch-kills: kernel  # `make batch-kills KILLS=200 LINES=10000`: each line is answered once, see docs/batch.md
	PYTHONPATH=tests $(VENV)/bin/python -m batch.kills --kills $(KILLS) --lines $(LINES) --processes $(PROCESSES)

batch-scale: kernel  # `make batch-scale ITEMS=1000000`: what a long queue costs, see docs/batch.md
	PYTHONPATH=tests $(VENV)/bin/python -m batch.measure.scale --items $(ITEMS)

simulate-day: $(STAMP)  # draws docs/runtime-day.svg, see docs/runtime.md
	$(VENV)/bin/python -m gateway_plugins.runtime.policy.simulation day docs/runtime-day.svg

simulate-weeks: $(STAMP)  # prints the table of docs/runtime.md; takes some minutes
	$(VENV)/bin/python -m gateway_plugins.runtime.policy.simulation weeks

simulate-routing: $(STAMP)  # prints the tables of docs/warm-caches.md; takes two minutes
	PYTHONPATH=tests $(VENV)/bin/python -m routing

clients: kernel $(VENV)-clients/node_modules $(VENV)-clients-2/.installed  # see docs/errors.md
	$(VENV)/bin/pytest -m clients tests/clients

agents: kernel $(VENV)-agents/node_modules  # needs Node 20, and 2 GB of disk; see docs/agents.md
	$(VENV)/bin/pytest -m agents tests/clients

soak: kernel  # `make soak MINUTES=60`: all plugins under load and faults; see docs/performance.md
	PYTHONPATH=tests $(VENV)/bin/python -m soak --minutes $(MINUTES)

fuzz: kernel  # `make fuzz INPUTS=1000000`: the kernel under sanitizers against Python's results
	PYTHONPATH=tests $(VENV)/bin/python -m fuzz --inputs $(INPUTS) $(ARGS)

bench: kernel  # `make bench ARGS=--quick`: beside other gateways; see docs/performance.md
	PYTHONPATH=tests $(VENV)/bin/python -m bench $(ARGS)

open-pages: kernel  # `make open-pages PAGES=100`: what open dashboards cost, see docs/dashboard.md
	PYTHONPATH=tests $(VENV)/bin/python -m dashboard.open_pages --pages $(PAGES)

picture: kernel  # takes README's picture of the dashboard; needs chromium
	PYTHONPATH=tests $(VENV)/bin/python -m dashboard.picture docs/dashboard.png

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# What .venv holds and what .venv-lowest and .venv-lock hold is in a file of hashes, to the last byte.
$(VENV)/.installed: requirements/dev.txt
$(VENV)-lowest/.installed: requirements/lowest.txt
$(VENV)-lock/.installed: requirements/lock.txt
$(VENV)-clients/.installed: requirements/clients.txt
$(VENV)-clients-2/.installed: requirements/clients-2.txt
$(VENV)-agents/.installed: requirements/agents.txt

$(VENV)-clients/node_modules: $(VENV)-clients/.installed  # a client of uploads, for Node
	npm install --silent --prefix $(VENV)-clients tus-js-client@4.3.1
	touch $@

$(VENV)-agents/node_modules: $(VENV)-agents/.installed Makefile
	npm install --silent --no-fund --no-audit --prefix $(VENV)-agents $(AGENTS)
	touch $@

%/.installed: pyproject.toml hatch_build.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv --clear $*
	$*/bin/python -m pip install --quiet --require-hashes $(addprefix -r ,$(filter %.txt,$^))
	$(if $(filter $(BARE),$*),,$(COMPILER))
	$(if $(filter $(BARE),$*),,$*/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .)
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-latest $(VENV)-lowest $(VENV)-lock $(VENV)-clients $(VENV)-clients-2 $(VENV)-agents .mypy_cache .ruff_cache .hypothesis
