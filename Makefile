# `make help` lists the targets to run. Each of them installs what it needs first.
SHELL       := /bin/bash
# Read by every recipe; `-a` exports what it sets.
.SHELLFLAGS := -aeu -o pipefail -c
export BASH_ENV := $(CURDIR)/infrastructure/local/env.sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Make splits names at spaces, and PATH at colons, so neither can contain such a folder.
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
DOCS    := $(VENV)/.docs

# The server of the tests of databases: the installed one, or on Debian and Ubuntu one from their packages.
MARIADB := $(if $(wildcard /usr/sbin/mariadbd)$(shell command -v mariadbd),,$(if $(shell command -v apt-get),$(TOOLS)/mariadb))

##@ Develop
.PHONY: demo
demo: $(RUNTIME) ## Ingest data from a real connector, build bronze → silver → gold → metrics, print the result
	@lakehouse demo $(ARGS)

.PHONY: dev
dev: $(RUNTIME) ## Start the UI and the daemon on localhost:3000 (PORT=…); DEBUG=1 for dbt's debug log
	@lakehouse init
	@dagster dev --workspace $(CODE)/dagster_workspace.yaml --host 127.0.0.1 --port $(PORT)

.PHONY: manifest
manifest: $(RUNTIME) ## Parse the dbt project after a change
	@lakehouse manifest

.PHONY: layers
layers: $(RUNTIME) ## Suggest layers for models without one (ARGS=--write adds them to dbt_project.yml)
	@lakehouse layers $(ARGS)

.PHONY: doctor
doctor: $(RUNTIME) ## Check every system, the manifest and the daemons, and report how to fix problems
	@lakehouse doctor $(ARGS)

.PHONY: airbyte-sim
airbyte-sim: $(RUNTIME) ## Start an Airbyte simulator with real syncs, to try the sensor
	@lakehouse airbyte-sim $(ARGS)

##@ Trino on this machine
.PHONY: stack-up
stack-up: $(TOOLS)/bin/uv ## Start Trino, S3 and PostgreSQL without Docker; WORKERS=2 adds a second Trino worker
	@PYTHON=$(PYTHON) LAKEHOUSE_STACK_WORKERS=$(or $(WORKERS),$(LAKEHOUSE_STACK_WORKERS)) infrastructure/local/stack.sh up

.PHONY: stack-down
stack-down: $(TOOLS)/bin/uv ## Stop them and keep their data
	@PYTHON=$(PYTHON) infrastructure/local/stack.sh down

.PHONY: stack-status
stack-status: $(TOOLS)/bin/uv ## Show running services and their ports
	@PYTHON=$(PYTHON) infrastructure/local/stack.sh status

##@ Deploy
# Tags come from git and never move; a checkout with changes gets a tag that ends in -dirty.
TAG      ?= $(shell git describe --tags --always --dirty --abbrev=12)
IMAGE    ?= registry.example/lakehouse-analytics
# docker, podman or buildah, the first that is installed; or a command with the same options.
BUILDER  ?= $(firstword $(foreach tool,docker podman buildah,$(if $(shell command -v $(tool)),$(tool) build)))
# Additional options for the builder, such as --build-arg PYTHON_IMAGE=…
BUILD    ?=
# The official chart: from its repository, in the version of our Dagster, or the folder of an unpacked chart.
CHART    ?= dagster/dagster
CHART_VERSION ?= $(shell sed -n 's/^dagster==\([0-9.]*\).*/\1/p' $(CODE)/requirements.lock)
RELEASE  ?= dagster
# The installed helm, or a pinned version that Go builds once.
HELM_VERSION := v3.21.4
HELM     := $(if $(shell command -v helm),,$(if $(shell command -v go),$(TOOLS)/bin/helm))

.PHONY: image
image: ## Build the image of the code location, with a tag from git (IMAGE=…, BUILDER="podman build")
	@[ -n "$(BUILDER)" ] || { echo "None of docker, podman and buildah is installed, and BUILDER is not set."; exit 1; }
	@BUILDAH_LAYERS=true $(BUILDER) --file $(CODE)/Dockerfile --tag "$(IMAGE):$(TAG)" $(BUILD) \
		--build-arg VERSION="$(TAG)" --build-arg REVISION="$$(git rev-parse HEAD)" \
		--build-arg CREATED="$$(git log -1 --format=%cI)" .
	@echo "$(IMAGE):$(TAG)"

.PHONY: image-test
image-test: ## Start the image like a pod, without a network (IMAGE=…, TAG=…, ENGINE=podman, VALUES="a.yaml b.yaml")
	@infrastructure/kubernetes/smoke.sh "$(IMAGE):$(TAG)" "$(ENGINE)" $(abspath $(VALUES))

.PHONY: helm-check
helm-check: $(DEV) $(HELM) ## Check your values against the official chart (CHART=…, VALUES="a.yaml b.yaml", RELEASE=…)
	@lakehouse manifest
	@cd $(CODE) && pytest -q tests/helm --chart "$(CHART)" --chart-version "$(CHART_VERSION)" \
		--release "$(RELEASE)" $(if $(VALUES),--values $(abspath $(VALUES))) $(ARGS)

.PHONY: cluster-test
cluster-test: $(DEV) ## Install on the cluster of KUBECONFIG, run the demo, test failures (CHART=…, IMAGE=…, TAG=…)
	@test -f .data/lakehouse.duckdb || lakehouse ingest
	@cd $(CODE) && pytest -q tests/cluster --chart "$(CHART)" --chart-version "$(CHART_VERSION)" --image "$(IMAGE)" --tag "$(TAG)" \
		--raw "$(CURDIR)/.data/lakehouse.duckdb" $(ARGS)

##@ Test and check
.PHONY: test
test: $(DEV) $(MARIADB) ## Run all tests: unit, definitions, dbt unit tests, integration
	@$(CODE)/tests/run $(ARGS)

.PHONY: test-trino
test-trino: $(DEV) stack-up ## Run the integration tests on Trino
	@$(CODE)/tests/run trino $(ARGS)

.PHONY: test-postgres
test-postgres: $(DEV) stack-up ## The integration tests of gates and partitions on PostgreSQL
	@$(CODE)/tests/run postgres $(ARGS)

.PHONY: test-fast
test-fast: $(DEV) $(MARIADB) ## Run only the unit and definitions tests
	@pytest -q $(CODE)/tests/unit $(CODE)/tests/definitions $(ARGS)

.PHONY: test-dagster
test-dagster: $(TOOLS)/bin/uv $(MARIADB) ## Run the fast tests on another Dagster, without the locks (DAGSTER=oldest, newest, 1.13.5, …)
	@$(CODE)/tests/on_dagster $(or $(DAGSTER),newest) $(ARGS)

.PHONY: coverage
coverage: $(DEV) $(MARIADB) ## Measure line and branch coverage of the fast tests: a table, and .coverage-html/index.html
	@pytest -q $(CODE)/tests/unit $(CODE)/tests/definitions --cov --cov-config=pyproject.toml --cov-report= $(ARGS)
	@coverage html --quiet
	@coverage report

# One target per tool: .pre-commit-config.yaml runs those that a commit's files concern.
LINTERS := lint-python lint-types lint-imports lint-yaml lint-sql lint-terraform lint-spelling lint-words
.PHONY: lint $(LINTERS)
lint: $(LINTERS) ## Check format, types, imports, SQL, YAML, spelling and words; changes nothing

lint-python: $(DEV)
	ruff format --check .
	ruff check .

lint-types: $(DEV)
	cd $(CODE) && mypy

lint-imports: $(DEV)
	cd $(CODE) && lint-imports --no-logo --no-cache

lint-yaml: $(DEV)
	yamllint --strict .

lint-sql: $(DEV)
	sqlfluff lint dbt

# The format, if OpenTofu or Terraform is installed. tests/unit/repository/test_terraform.py checks the content.
TERRAFORM := $(firstword $(foreach tool,tofu terraform,$(if $(shell command -v $(tool)),$(tool))))
lint-terraform:
	$(if $(TERRAFORM),CHECKPOINT_DISABLE=1 $(TERRAFORM) fmt -check -diff infrastructure/terraform,@echo "Neither tofu nor terraform is installed: the format of infrastructure/terraform is not checked.")

# Misspellings, in everything that is tracked. The tests misspell on purpose.
lint-spelling: $(DEV)
	git ls-files -z -- ':!*.lock' ':!*.png' ':!LICENSE' ':!$(CODE)/tests' | xargs -0 codespell --ignore-words .codespell/names.txt

# Words to avoid (CONTRIBUTING.md, Words). Tests contain misspelt words, so only our list and American spelling apply to them.
lint-words: $(DEV)
	git ls-files -z -- $(PROSE) $(CODE)/lakehouse_analytics | xargs -0 $(AVOID) --dictionary=-
	git ls-files -z -- $(CODE)/tests | xargs -0 $(AVOID) --builtin=en-GB_to_en-US --dictionary=-
AVOID := codespell --config .codespell/avoid.cfg --dictionary=.codespell/avoid.txt
PROSE := '*.md' '*.yaml' '*.yml' '*.sql' '*.toml' '*.sh' .ci .env.example .github Makefile charts infrastructure benchmarks

# Mermaid is served by the site itself. Without npm, which fetches it, the pages load it from a CDN.
MERMAID_VERSION := 11.17.2
MERMAID_SHA256  := 581ed7d74bd9048d0e3a91363927d72ef22942d7722546b27f7cc29e35390eb8
MERMAID         := $(if $(shell command -v npm),$(TOOLS)/mermaid-$(MERMAID_VERSION).min.js)

.PHONY: docs
docs: $(DOCS) $(MERMAID) ## Build the documentation site in .site; broken links and diagrams are errors
	@$(if $(MERMAID),node infrastructure/docs/check_diagrams.cjs $(MERMAID) *.md docs/*.md docs/adr/*.md)
	@$(MKDOCS) build --strict --clean
	@echo "The site is in .site"

.PHONY: docs-serve
docs-serve: $(DOCS) $(MERMAID) ## Serve the documentation site on localhost:8000, and rebuild it at every change
	@$(MKDOCS) serve --dev-addr 127.0.0.1:8000

MKDOCS = NO_MKDOCS_2_WARNING=1 DOCS_MERMAID=$(MERMAID) mkdocs

.PHONY: pre-commit
pre-commit: $(DEV) ## Install a git hook that runs the linters at every commit
	@pre-commit install

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
bench: bench-load bench-run bench-row-counts bench-airbyte bench-backfill bench-arrivals bench-exports bench-diff bench-branch bench-reuse bench-ui ## Run all benchmarks, each compared with stock Dagster or dbt

.PHONY: bench-load
bench-load: $(DEV) ## Measure load time
	@python benchmarks/load.py $(ARGS)

.PHONY: bench-run
bench-run: $(DEV) stack-up ## Compare a run with plain dbt build: a slow table, and 300 tables on Trino
	@python benchmarks/run.py $(ARGS)

.PHONY: bench-row-counts
bench-row-counts: $(DEV) stack-up ## Count the rows of 200 tables on Trino
	@python benchmarks/row_counts.py $(ARGS)

.PHONY: bench-airbyte
bench-airbyte: $(DEV) ## Measure one tick of the Airbyte sensor with 1,000 connections
	@python benchmarks/airbyte_sensor.py $(ARGS)

.PHONY: bench-backfill
bench-backfill: $(DEV) stack-up ## Backfill 365 days in one run, compared with plain dbt and one run per day
	@python benchmarks/backfill.py $(ARGS)

.PHONY: bench-arrivals
bench-arrivals: $(DEV) $(MARIADB) $(VENV)/.dlt ## Load a million rows of PostgreSQL and MariaDB, and 10,000 files, compared with bare tools and with dlt
	@DLT_PYTHON=$(VENV)/dlt/bin/python python benchmarks/databases.py postgresql $(ARGS)
	@DLT_PYTHON=$(VENV)/dlt/bin/python python benchmarks/databases.py mariadb $(ARGS)
	@DLT_PYTHON=$(VENV)/dlt/bin/python python benchmarks/arrivals.py files
	@python benchmarks/arrivals.py listing

.PHONY: bench-exports
bench-exports: $(DEV) ## Export a million rows into ClickHouse, compared with bare DuckDB and chdb
	@python benchmarks/exports.py $(ARGS)

$(VENV)/.dlt: benchmarks/dlt.lock | $(DEV)
	@echo "Installing dlt into .venv/dlt (once)"
	@uv venv --quiet --clear --python $(BIN)/python $(VENV)/dlt
	@VIRTUAL_ENV=$(VENV)/dlt uv pip sync --quiet $(HASHES) benchmarks/dlt.lock
	@touch $@

.PHONY: bench-diff
bench-diff: $(DEV) stack-up ## Compare a million rows with lakehouse diff and by brute force, on DuckDB and Trino
	@python benchmarks/diff.py $(ARGS)

.PHONY: bench-branch
bench-branch: $(DEV) stack-up ## Change one of 500 models on a branch: how long it takes, and what is written and left
	@python benchmarks/branch.py $(ARGS)

.PHONY: bench-reuse
bench-reuse: $(DEV) ## Run 500 unchanged models that are reused
	@python benchmarks/reuse.py $(ARGS)

.PHONY: bench-ui
bench-ui: $(DEV) stack-up ## Measure the UI's queries for 500 daily assets with three years of partitions
	@python benchmarks/ui.py $(ARGS)

##@ Maintain
.PHONY: lock
lock: $(DEV) ## Update the lock files, with hashes and without registry addresses
	cd $(CODE) && uv pip compile pyproject.toml $(LOCK_OPTIONS) -o requirements.lock
	cd $(CODE) && uv pip compile pyproject.toml --extra local $(LOCK_OPTIONS) -c requirements.lock -o requirements-local.lock
	cd $(CODE) && uv pip compile pyproject.toml --extra dev $(LOCK_OPTIONS) -c requirements-local.lock \
		-o requirements-dev.lock
	cd $(CODE) && uv pip compile --group docs $(LOCK_OPTIONS) -c requirements-dev.lock -o requirements-docs.lock
	cd $(CODE) && uv pip compile --group build $(LOCK_OPTIONS) -c requirements-local.lock -o requirements-build.lock
	cd connectors && uv pip compile faker.in $(LOCK_OPTIONS) -o faker.lock
	cd benchmarks && uv pip compile dlt.in $(LOCK_OPTIONS) -o dlt.lock
	cd infrastructure/local && uv pip compile requirements.in $(LOCK_OPTIONS) -o requirements.lock

LOCK_OPTIONS := --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links --quiet

.PHONY: clean
clean: ## Delete environments, data, runs and caches; downloads outside the checkout stay
	@if [ -d .stack/run ] && [ -n "$$(ls .stack/run)" ]; then LAKEHOUSE_STACK_DIR=.stack infrastructure/local/stack.sh down; fi
	rm -rf .stack
	rm -rf .venv .tools .site .coverage .coverage-html .connectors .data .dagster_home dbt/target dbt/logs dbt/dbt_packages
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis $(CODE)/.mypy_cache $(CODE)/*.egg-info
	find $(CODE) benchmarks infrastructure -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# uv is installed into the checkout, so that a machine needs only Python and make.
$(TOOLS)/bin/uv: $(CODE)/requirements-uv.lock
	@echo "Installing uv into .tools (once)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 13) else "Python 3.11 or 3.12 is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 …")'
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check $(HASHES) -r $<
	@touch $@

$(TOOLS)/bin/helm:
	@echo "Building helm into .tools (once)"
	@GOBIN=$(TOOLS)/bin go install -ldflags "-s -w" helm.sh/helm/v3/cmd/helm@$(HELM_VERSION)

# Without it, its tests are skipped, except in CI.
$(TOOLS)/mariadb:
	@echo "Unpacking MariaDB into .tools (once)"
	@infrastructure/local/mariadb.sh $@ || echo "MariaDB could not be unpacked: its tests are skipped"

$(TOOLS)/mermaid-$(MERMAID_VERSION).min.js:
	@echo "Fetching Mermaid into .tools (once)"
	@mkdir -p $(TOOLS)
	@cd $(TOOLS) && tar -xzOf "$$(npm pack --silent mermaid@$(MERMAID_VERSION))" package/dist/mermaid.min.js > $@
	@rm -f $(TOOLS)/mermaid-$(MERMAID_VERSION).tgz
	@$(PYTHON) -c 'import hashlib, sys; sys.exit(hashlib.sha256(open("$@", "rb").read()).hexdigest() != "$(MERMAID_SHA256)" and "$@ is not the file that the Makefile has the hash of")'

# Stamps are written last, so that an interrupted installation is repeated.
$(RUNTIME): $(CODE)/requirements-local.lock $(CODE)/pyproject.toml | $(TOOLS)/bin/uv
	@echo "Installing the runtime into .venv (once)"
	@test -x $(BIN)/python || $(TOOLS)/bin/uv venv --quiet --python $(PYTHON) $(VENV)
	@$(TOOLS)/bin/uv pip install --quiet $(HASHES) -r $(CODE)/requirements-local.lock
	@$(TOOLS)/bin/uv pip install --quiet --no-deps --no-build-isolation --editable $(CODE)
	@test -e $(CODE)/.env || ln -sf ../../.env $(CODE)/.env   # `dagster dev` reads the file of its working directory
	@touch $@

$(DEV): $(CODE)/requirements-dev.lock $(RUNTIME)
	@echo "Installing the development tools into .venv (once)"
	@$(TOOLS)/bin/uv pip install --quiet $(HASHES) -r $<
	@touch $@

$(DOCS): $(CODE)/requirements-docs.lock $(RUNTIME)
	@echo "Installing MkDocs into .venv (once)"
	@$(TOOLS)/bin/uv pip install --quiet $(HASHES) -r $<
	@touch $@
