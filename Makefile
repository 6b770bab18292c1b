# The one door to everything that a developer does. `make help` lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

PIPELINE ?= demo
DEMO ?= .corral-demo
UP ?= .corral
RELEASE ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
EXTRAS ?=
EVIDENCE ?= docs/reference/evidence.md

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## make .venv with everything that the other targets need

# The stamp is written last, so a broken install is repeated; nothing is done while it is newer than its inputs.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "setup: Corral needs Python 3.11 or newer; name one: make setup PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	    || { echo "setup: this Python cannot make environments; type: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo "setup: installing into $(VENV), about a minute with a near package index" >&2
	@$(BIN)/python -m pip install -qq --constraint constraints.txt pip
	@$(BIN)/python -m pip install -qq --constraint constraints.txt --build-constraint constraints.txt \
	    --editable '.[fleet,gateway,gpu,lab,research]' --group build --group test --group lint
	@touch $@

demo: $(INSTALLED)  ## run a real research pipeline here and write its report; a second run reuses every result
	$(BIN)/corral pipeline run $(PIPELINE) --local --data $(DEMO)

up: $(INSTALLED)  ## start a broker and two workers here, until Ctrl-C
	$(BIN)/corral up --data $(UP) --workers 2 --slots 1

# The gateway is in every bundle: any machine of the fleet may be the one that runs it.
comma := ,
BUNDLED := $(if $(EXTRAS),$(patsubst [%,[gateway$(comma)%,$(EXTRAS)),[gateway])
bundle: $(INSTALLED)  ## dist/corral-RELEASE.tar: what a machine of the fleet installs, as wheels
	@mkdir -p build dist
	@flock build/bundle.lock $(MAKE) --no-print-directory bundle-alone

bundle-alone:
	rm -rf build/bundle && mkdir -p build/bundle/source
	cp -r corral broker worker pyproject.toml README.md LICENSE build/bundle/source
	sed -i 's/^version = .*/version = "$(RELEASE)"/' build/bundle/source/pyproject.toml
	$(BIN)/python -m pip wheel -qq --constraint constraints.txt --build-constraint constraints.txt \
	    --wheel-dir build/bundle/wheels 'build/bundle/source$(BUNDLED)'
	tar --sort=name --owner=0 --group=0 --mode=u=rwX,go=rX --mtime=@0 -cf build/bundle/whole.tar -C build/bundle/wheels .
	mv build/bundle/whole.tar dist/corral-$(RELEASE).tar  # who reads the last one reads it to its end

# What the machine must have: for real containers, and for tests of the dashboard. Nothing is done when it is all there.
lab-packages: PACKAGES := debootstrap iproute2 lxc lxcfs openssh-client zstd
browser: PACKAGES := chromium
lab-packages browser:
	@lacking=$$(dpkg-query --show --showformat '$${db:Status-Abbrev} $${Package}\n' $(PACKAGES) 2>/dev/null \
	    | awk '$$1 == "ii" {print $$2}' | LC_ALL=C sort | LC_ALL=C comm -13 - <(printf '%s\n' $(PACKAGES))); \
	if [ -z "$$lacking" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ]; then \
	    echo "$@: Debian packages are missing; type: sudo apt-get install" $$lacking >&2; exit 1; fi; \
	apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $$lacking >&2

lab-image: $(INSTALLED) lab-packages
	@$(BIN)/python -m corral.lab.image

# The real Prometheus and Alertmanager of Debian, unpacked and not installed: no service starts, no user is made.
PROMETHEUS := .prometheus
prometheus: $(PROMETHEUS)/.unpacked  ## what the tests of metrics and alerts run, into .prometheus
$(PROMETHEUS)/.unpacked:
	@rm -rf $(PROMETHEUS) && mkdir -p $(PROMETHEUS)
	@if [ "$$(id -u)" = 0 ]; then apt-get -qq update; fi
	@cd $(PROMETHEUS) && apt-get -qq -o APT::Sandbox::User=$$(id -un) download prometheus prometheus-alertmanager \
	    || { echo "prometheus: no such packages; type: sudo apt-get update" >&2; exit 1; }
	@for package in $(PROMETHEUS)/*.deb; do dpkg-deb --extract $$package $(PROMETHEUS) && rm $$package; done
	@touch $@

lab: lab-image  ## as root: a Proxmox-like cluster on this machine, over LXC; `corral lab down` removes it
	$(BIN)/corral lab up

lab-demo: $(INSTALLED)  ## after `make lab`: a fleet's whole life there, from the template to a restored broker
	@bash inventory/lab-demo.sh

# Two files of tests are at work at once: most wait for something. Long runs are measured, and have the machine alone.
PYTEST := $(BIN)/pytest --numprocesses 2

test: coverage lab-image browser prometheus  ## the whole suite, with the coverage gate (under 35 minutes on 2 cores)
	$(PYTEST) --ignore=tests/unit

test-fast: $(INSTALLED)  ## the unit tests alone (under 2 minutes)
	$(PYTEST) tests/unit

# Tier by tier, each writes what it measured: an interrupted or failed one costs the others nothing.
test-long: $(INSTALLED)  ## the full figures (hours), written to docs/reference/evidence.md
	@failed=0; \
	for tier in tests/sim tests/chaos "tests --ignore=tests/sim --ignore=tests/chaos"; do \
	    $(BIN)/pytest $$tier --long --evidence $(EVIDENCE) || failed=1; \
	done; \
	exit $$failed

coverage: $(INSTALLED)  ## every branch of the core, the wire and the task table, from unit tests
	$(PYTEST) tests/unit --cov

lint: $(INSTALLED)  ## ruff, mypy, the import contracts, and ansible-lint in its strictest profile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	@# It calls its neighbours by name, and needs no inventory: the production one would ask a cluster.
	PATH="$(CURDIR)/$(BIN):$$PATH" ANSIBLE_INVENTORY=/dev/null ansible-lint -q

bench: $(INSTALLED)  ## Corral beside its peers, in an environment of its own (.venv-bench)
	bash bench/run.sh

bench-fleet:  ## the fleet beside the public Proxmox collection, in an environment of its own (.venv-bench-fleet)
	bash bench/fleet/run.sh --write

docs: $(INSTALLED)  ## write the reference pages that are made from code
	PYTHONPATH=playbooks/collections $(BIN)/python -m docs

clean:  ## remove the environments, caches and whatever a run left behind
	rm -rf $(VENV) .venv-bench .venv-bench-fleet .corral* $(PROMETHEUS) build dist htmlcov .coverage .coverage.* \
	    .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help setup demo up prometheus lab lab-demo lab-packages lab-image browser bundle bundle-alone test test-fast test-long coverage lint bench bench-fleet docs clean
