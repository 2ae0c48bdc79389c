# `make help` lists what a person runs. Every target does its own set-up.
SHELL       := /bin/bash
# Read by every recipe; `-a` exports what it sets.
.SHELLFLAGS := -aeu -o pipefail -c
export BASH_ENV := $(CURDIR)/infrastructure/local/env.sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Make splits names at spaces, and PATH splits at colons: neither can hold such a folder.
define FOLDER
The folder "$(CURDIR)" has a space or one of : % # $$ ; ' " \ in its path, which make cannot handle. Clone into another one
endef
FOLDER_CHARACTERS := : % \# $$ ; ' " \\
ifneq ($(words x$(CURDIR)x)$(strip $(foreach character,$(FOLDER_CHARACTERS),$(findstring $(character),$(CURDIR)))),1)
$(error $(FOLDER))
endif

PYTHON  ?= python3
CODE    := orchestration/dagster
VENV    := $(CURDIR)/.venv
TOOLS   := $(CURDIR)/.tools
BIN     := $(VENV)/bin
HASHES  := --require-hashes
PORT    ?= 3000

export PATH := $(BIN):$(TOOLS)/bin:$(PATH)
export DO_NOT_TRACK := 1
export VIRTUAL_ENV := $(VENV)

RUNTIME := $(VENV)/.runtime
DEV     := $(VENV)/.dev

##@ Use it
.PHONY: demo
demo: $(RUNTIME) ## Ingest real connector data, build bronze → silver → gold → metrics, print what happened
	@lakehouse demo $(ARGS)

.PHONY: dev
dev: $(RUNTIME) ## The UI and the daemon on localhost:3000 (PORT=…); DEBUG=1 for dbt's debug log
	@lakehouse init
	@dagster dev --workspace $(CODE)/dagster_workspace.yaml --host 127.0.0.1 --port $(PORT)

.PHONY: manifest
manifest: $(RUNTIME) ## Parse the dbt project after a change
	@lakehouse manifest

.PHONY: layers
layers: $(RUNTIME) ## Suggest layers for the models that are in none (ARGS=--write adds them to dbt_project.yml)
	@lakehouse layers $(ARGS)

.PHONY: doctor
doctor: $(RUNTIME) ## Find out what is wrong: every system, the manifest, the daemons; and how to fix it
	@lakehouse doctor $(ARGS)

.PHONY: airbyte-sim
airbyte-sim: $(RUNTIME) ## An Airbyte for those who have none: real syncs for the sensor to see
	@lakehouse airbyte-sim $(ARGS)

##@ Run the real engine
.PHONY: stack-up
stack-up: $(TOOLS)/bin/uv ## Trino, S3 and PostgreSQL on this machine, without Docker; WORKERS=2 adds a second Trino
	@PYTHON=$(PYTHON) LAKEHOUSE_STACK_WORKERS=$(or $(WORKERS),$(LAKEHOUSE_STACK_WORKERS)) infrastructure/local/stack.sh up

.PHONY: stack-down
stack-down: $(TOOLS)/bin/uv ## Stop them; their data stays
	@PYTHON=$(PYTHON) infrastructure/local/stack.sh down

.PHONY: stack-status
stack-status: $(TOOLS)/bin/uv ## What runs, on which ports
	@PYTHON=$(PYTHON) infrastructure/local/stack.sh status

##@ Deploy it
# Tags come from git and never move; a checkout with changes gets a tag that ends in -dirty.
TAG      ?= $(shell git describe --tags --always --dirty --abbrev=12)
IMAGE    ?= registry.example/lakehouse-analytics
# docker, podman or buildah, whichever is installed first; or a command that takes their options.
BUILDER  ?= $(firstword $(foreach tool,docker podman buildah,$(if $(shell command -v $(tool)),$(tool) build)))
# More options for the builder, such as --build-arg PYTHON_IMAGE=…
BUILD    ?=
# The official chart: of its repository, in the version of our Dagster; or the folder of an unpacked chart.
CHART    ?= dagster/dagster
CHART_VERSION ?= $(shell sed -n 's/^dagster==\([0-9.]*\).*/\1/p' $(CODE)/requirements.lock)
RELEASE  ?= dagster
# The installed helm, or one of a pinned version that Go builds once.
HELM_VERSION := v3.21.4
HELM     := $(if $(shell command -v helm),,$(if $(shell command -v go),$(TOOLS)/bin/helm))

.PHONY: image
image: ## Build the image of the code location, tagged by git (IMAGE=…, BUILDER="podman build")
	@[ -n "$(BUILDER)" ] || { echo "None of docker, podman and buildah is installed, and BUILDER is not set."; exit 1; }
	@BUILDAH_LAYERS=true $(BUILDER) --file $(CODE)/Dockerfile --tag "$(IMAGE):$(TAG)" $(BUILD) \
		--build-arg VERSION="$(TAG)" --build-arg REVISION="$$(git rev-parse HEAD)" \
		--build-arg CREATED="$$(git log -1 --format=%cI)" .
	@echo "$(IMAGE):$(TAG)"

.PHONY: image-test
image-test: ## Start the image as a pod would, without a network (IMAGE=…, TAG=…, ENGINE=podman, VALUES="a.yaml b.yaml")
	@infrastructure/kubernetes/smoke.sh "$(IMAGE):$(TAG)" "$(ENGINE)" $(abspath $(VALUES))

.PHONY: helm-check
helm-check: $(DEV) $(HELM) ## Check your values against the official chart (CHART=…, VALUES="a.yaml b.yaml", RELEASE=…)
	@lakehouse manifest
	@cd $(CODE) && pytest -q tests/helm --chart "$(CHART)" --chart-version "$(CHART_VERSION)" \
		--release "$(RELEASE)" $(if $(VALUES),--values $(abspath $(VALUES))) $(ARGS)

.PHONY: cluster-test
cluster-test: $(DEV) ## Install on the cluster of KUBECONFIG, run the demo, kill parts of it (CHART=…, IMAGE=…, TAG=…)
	@test -f .data/lakehouse.duckdb || lakehouse ingest
	@cd $(CODE) && pytest -q tests/cluster --chart "$(CHART)" --chart-version "$(CHART_VERSION)" --image "$(IMAGE)" --tag "$(TAG)" \
		--raw "$(CURDIR)/.data/lakehouse.duckdb" $(ARGS)

##@ Guard it
.PHONY: test
test: $(DEV) ## Everything that guards it: unit, definitions, dbt unit tests, integration
	@$(CODE)/tests/run $(ARGS)

.PHONY: test-trino
test-trino: $(DEV) stack-up ## The integration tests on the real engine
	@$(CODE)/tests/run trino $(ARGS)

.PHONY: test-fast
test-fast: $(DEV) ## Unit and definitions tests only
	@pytest -q $(CODE)/tests/unit $(CODE)/tests/definitions $(ARGS)

.PHONY: test-dagster
test-dagster: $(TOOLS)/bin/uv ## The fast tests on another Dagster, without the locks (DAGSTER=oldest, newest, 1.13.5, …)
	@$(CODE)/tests/on_dagster $(or $(DAGSTER),newest) $(ARGS)

.PHONY: lint
lint: $(DEV) ## Format, lint, types, SQL, YAML; changes nothing
	ruff format --check .
	ruff check .
	cd $(CODE) && mypy
	cd $(CODE) && lint-imports --no-logo --no-cache
	yamllint --strict .
	sqlfluff lint dbt

.PHONY: format
format: $(DEV) ## Format Python and SQL
	ruff format .
	ruff check --fix .
	sqlfluff fix dbt

.PHONY: golden
golden: $(DEV) ## Rewrite the golden file of the asset graph; review the diff
	@pytest -q $(CODE)/tests/definitions --update-golden

.PHONY: schema
schema: $(RUNTIME) ## Rewrite the JSON Schema of meta.lakehouse for editors
	@lakehouse schema --out dbt/lakehouse.schema.json

.PHONY: bench
bench: bench-load bench-run bench-row-counts bench-airbyte bench-backfill bench-ui ## Every benchmark against stock Dagster, side by side in one run

.PHONY: bench-load
bench-load: $(DEV) ## Load time
	@python benchmarks/load.py $(ARGS)

.PHONY: bench-run
bench-run: $(DEV) stack-up ## A run against bare dbt build: a slow table, and 300 tables on the real engine
	@python benchmarks/run.py $(ARGS)

.PHONY: bench-row-counts
bench-row-counts: $(DEV) stack-up ## Row counts of 200 tables on the real engine
	@python benchmarks/row_counts.py $(ARGS)

.PHONY: bench-airbyte
bench-airbyte: $(DEV) ## One tick of the Airbyte sensor with 1,000 connections
	@python benchmarks/airbyte_sensor.py $(ARGS)

.PHONY: bench-backfill
bench-backfill: $(DEV) stack-up ## A year of days in one run, against bare dbt and a run a day
	@python benchmarks/backfill.py $(ARGS)

.PHONY: bench-ui
bench-ui: $(DEV) stack-up ## What the UI asks of 500 daily assets with three years of partitions
	@python benchmarks/ui.py $(ARGS)

##@ Keep it
.PHONY: lock
lock: $(DEV) ## Lock the dependencies again: hashes, no registry address
	cd $(CODE) && uv pip compile pyproject.toml $(LOCK_OPTIONS) -o requirements.lock
	cd $(CODE) && uv pip compile pyproject.toml --extra local $(LOCK_OPTIONS) -c requirements.lock -o requirements-local.lock
	cd $(CODE) && uv pip compile pyproject.toml --extra dev $(LOCK_OPTIONS) -c requirements-local.lock \
		-o requirements-dev.lock
	cd $(CODE) && uv pip compile --group build $(LOCK_OPTIONS) -c requirements-local.lock -o requirements-build.lock
	cd connectors && uv pip compile faker.in $(LOCK_OPTIONS) -o faker.lock
	cd infrastructure/local && uv pip compile requirements.in $(LOCK_OPTIONS) -o requirements.lock

LOCK_OPTIONS := --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links --quiet

.PHONY: clean
clean: ## Remove environments, data, runs and caches; downloads outside the tree stay
	@if [ -d .stack/run ] && [ -n "$$(ls .stack/run)" ]; then LAKEHOUSE_STACK_DIR=.stack infrastructure/local/stack.sh down; fi
	rm -rf .stack
	rm -rf .venv .tools .connectors .data .dagster_home dbt/target dbt/logs dbt/dbt_packages
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis $(CODE)/.mypy_cache $(CODE)/*.egg-info
	find $(CODE) benchmarks infrastructure -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## This text
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# uv goes into the project, so that a machine needs Python and make only.
$(TOOLS)/bin/uv: $(CODE)/requirements-uv.lock
	@echo "Installing uv into .tools (once)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 13) else "Python 3.11 or 3.12 is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 …")'
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check $(HASHES) -r $<
	@touch $@

$(TOOLS)/bin/helm:
	@echo "Building helm into .tools (once)"
	@GOBIN=$(TOOLS)/bin go install -ldflags "-s -w" helm.sh/helm/v3/cmd/helm@$(HELM_VERSION)

# Stamps are written last: an interrupted install is done again.
$(RUNTIME): $(CODE)/requirements-local.lock $(CODE)/pyproject.toml | $(TOOLS)/bin/uv
	@echo "Installing the runtime into .venv (once)"
	@test -x $(BIN)/python || $(TOOLS)/bin/uv venv --quiet --python $(PYTHON) $(VENV)
	@$(TOOLS)/bin/uv pip install --quiet $(HASHES) -r $(CODE)/requirements-local.lock
	@$(TOOLS)/bin/uv pip install --quiet --no-deps --no-build-isolation --editable $(CODE)
	@test -e $(CODE)/.env || ln -sf ../../.env $(CODE)/.env   # `dagster dev` reads the folder that it is started in
	@touch $@

$(DEV): $(CODE)/requirements-dev.lock $(RUNTIME)
	@echo "Installing the development tools into .venv (once)"
	@$(TOOLS)/bin/uv pip install --quiet $(HASHES) -r $<
	@touch $@
