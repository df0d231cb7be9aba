# Two commands matter: `make demo` and `make test`. Each sets up all that it needs, and is quick the second time.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

# System packages, all of them: the interpreter's shared library is what Triton's Python backend embeds.
SYSTEM_PACKAGES := python3-venv libpython3-dev ca-certificates

# Python 3.11 or 3.12.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
UV := .cache/bootstrap/bin/uv
S3_SERVER := .cache/bin/versitygw
S3_SERVER_MODULE := github.com/versity/versitygw/cmd/versitygw@v1.8.0
# Checks GitHub's workflows against their schema, and the expressions in them.
ACTIONLINT := .cache/bin/actionlint
ACTIONLINT_MODULE := github.com/rhysd/actionlint/cmd/actionlint@v1.7.7
# The test cluster: Kubernetes' programs in one binary, helm, and what a node needs of the system.
KUBERNETES_VERSION := v1.34.2
HELM_VERSION := v3.19.5
CLUSTER_SOURCES := $(wildcard tools/testcluster/binary/go.* tools/testcluster/binary/*.go)
CLUSTER_BINARIES := .cache/bin/kube-node .cache/bin/helm .cache/bin/prometheus .cache/bin/promtool
DEFINITIONS := .cache/definitions/.downloaded
CLUSTER_PACKAGES := openssl containerd runc containernetworking-plugins iptables iproute2 util-linux mount buildah debootstrap
GO_BUILD = env GOTOOLCHAIN=local CGO_ENABLED=0 go build -trimpath
# A line of progress in the place of what it prints, all of which is shown when it fails.
WITH_PROGRESS = $(CURDIR)/tests/support/with-progress

# A company's own certificates, where the system has them.
export SSL_CERT_FILE ?= $(wildcard /etc/ssl/certs/ca-certificates.crt)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup demo demo-local test test-fast lint unit docs lock clean cluster-setup cluster-up cluster-down cluster-status images \
  benchmark-tools

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.installed $(S3_SERVER) ## Install everything for demo and tests

demo: cluster-setup ## helm install, kubectl apply, transcripts, on its own Kubernetes (as root)
	@python -m demo.demo

demo-local: setup ## Without Kubernetes: build, publish, fetch, serve, transcribe
	@python -m demo.local

test: cluster-setup lint ## Everything: style, types, layers, tests (as root: some start a Kubernetes)
	@python -m pytest --numprocesses 2 --dist loadscope

lint: setup $(ACTIONLINT) ## Style, types, layers and GitHub workflows
	@ruff check --quiet . && ruff format --check --quiet . && echo "ruff: clean"
	@mypy --no-error-summary && echo "mypy: clean"
	@lint-imports | tail -n 2
	@$(ACTIONLINT) -shellcheck= -pyflakes= && echo "actionlint: clean"

test-fast: lint ## For everyday work: style, types, layers, unit tests; minutes, without root or a cluster
	@python -m pytest tests/unit --numprocesses 2

unit: setup ## Unit tests alone: about a minute, no torch
	@python -m pytest tests/unit

docs: setup ## Generate the reference pages and build the site in .cache/site; warnings are errors
	@python -m tools.reference
	@NO_MKDOCS_2_WARNING=1 mkdocs build && echo "docs: .cache/site/index.html"

cluster-setup: setup $(CLUSTER_BINARIES) $(DEFINITIONS) .cache/images/pause/pause .cache/cluster-packages ## Build and install what clusters need

cluster-up: cluster-setup ## Start a real one-node Kubernetes below .cache/cluster (as root)
	@python -m tools.testcluster up

cluster-down: ## Stop and remove it, also after a crash
	@python -m tools.testcluster down

images: cluster-setup ## Build the images for the test cluster: operator, model builder, a CPU Triton, S3, Prometheus
	@python -m tools.testcluster.images operator triton builder s3 prometheus

benchmark-tools: cluster-setup .cache/bin/keda-operator .cache/bin/keda-adapter ## Build KEDA for benchmarks

cluster-status: ## Show the state of each of its programs
	@python -m tools.testcluster status

LOCK = $(UV) pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_35 --generate-hashes \
  --no-annotate --no-header pyproject.toml

lock: $(UV) ## Resolve all lock files again from pyproject.toml
	@$(LOCK) --extra builder --extra client --extra operator --extra dev --extra docs -o requirements.lock
	@sed -E '/^ /d; s/ \\$$//' requirements.lock >.cache/constraints
	@for image in operator builder; do \
	  $(LOCK) --extra $$image --constraint .cache/constraints -o requirements-$$image.lock; done

clean: ## Remove the environment and all caches of this folder
	@[ ! -d .cache/cluster ] || python -m tools.testcluster down
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

.cache/system-packages: Makefile
	@mkdir -p .cache
	@if ! command -v apt-get >/dev/null; then \
	  echo "Not a Debian system: make sure that these are there: $(SYSTEM_PACKAGES)"; \
	elif dpkg-query -W $(SYSTEM_PACKAGES) >/dev/null 2>&1; then :; \
	elif [ "$$(id -u)" = 0 ]; then \
	  echo "Installing system packages: $(SYSTEM_PACKAGES)"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SYSTEM_PACKAGES) >/dev/null; \
	else \
	  echo "Please install as root: apt-get install $(SYSTEM_PACKAGES)"; exit 1; \
	fi
	@touch $@

$(UV): .cache/system-packages
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or 3.12 is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv --clear .cache/bootstrap
	@.cache/bootstrap/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

$(VENV)/.installed: requirements.lock pyproject.toml $(UV)
	@[ -x $(BIN)/python ] || { echo "Creating $(VENV) with $$($(PYTHON) --version)"; $(UV) venv --quiet --python $(PYTHON) $(VENV); }
	@echo "Installing Python packages (6 GB with torch the first time; half a minute on a fast line)"
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

$(S3_SERVER): $(VENV)/.installed
	@[ -x $@ ] && touch $@ && exit 0; mkdir -p $(@D) && $(WITH_PROGRESS) \
	  "Building the S3 server for tests and demo (2 minutes on two cores, once)" \
	  env GOTOOLCHAIN=local CGO_ENABLED=0 GOBIN=$(CURDIR)/$(@D) go install $(S3_SERVER_MODULE)

$(ACTIONLINT): $(VENV)/.installed
	@[ -x $@ ] && touch $@ && exit 0; echo "Building actionlint (a few seconds, once)"; \
	mkdir -p $(@D) && GOTOOLCHAIN=local CGO_ENABLED=0 GOBIN=$(CURDIR)/$(@D) go install $(ACTIONLINT_MODULE)

.cache/bin/kube-node: $(CLUSTER_SOURCES) | $(VENV)/.installed
	@cd tools/testcluster/binary && $(WITH_PROGRESS) "Building Kubernetes for demo and tests (10 minutes on two cores the first time)" \
	  $(GO_BUILD) -o $(CURDIR)/$@ -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$(KUBERNETES_VERSION)" .

.cache/bin/helm: tools/testcluster/binary/go.sum | .cache/bin/kube-node
	@cd tools/testcluster/binary && $(WITH_PROGRESS) "Building helm for demo and tests" $(GO_BUILD) -o $(CURDIR)/$@ \
	  -ldflags "-s -w -X helm.sh/helm/v3/internal/version.version=$(HELM_VERSION)" \
	  helm.sh/helm/v3/cmd/helm

# Of all the places that Prometheus can look for targets, only Kubernetes is built in.
.cache/bin/prometheus .cache/bin/promtool: tools/testcluster/prometheus/go.sum | .cache/bin/kube-node
	@cd tools/testcluster/prometheus && $(WITH_PROGRESS) "Building $(@F) for demo and tests" $(GO_BUILD) -o $(CURDIR)/$@ -tags remove_all_sd,enable_kubernetes_sd -ldflags "-s -w" \
	  github.com/prometheus/prometheus/cmd/$(@F)

.cache/bin/keda-operator .cache/bin/keda-adapter: tools/testcluster/keda/go.sum | $(VENV)/.installed
	@cd tools/testcluster/keda && $(WITH_PROGRESS) "Building $(@F) for benchmarks (11 CPU minutes for both the first time)" \
	  $(GO_BUILD) -o $(CURDIR)/$@ -ldflags "-s -w" \
	  github.com/kedacore/keda/v2/cmd/$(@F:keda-%=%)

# Other projects' kinds, which the chart and the examples are checked against (40 MB).
$(DEFINITIONS): tests/support/definitions.py | $(VENV)/.installed
	@python -m tests.support.definitions && touch $@

.cache/images/pause/pause: tools/testcluster/binary/pause/main.go | $(VENV)/.installed
	@mkdir -p $(@D) && cd tools/testcluster/binary && $(WITH_PROGRESS) "Building the clusters' pause program" \
	  $(GO_BUILD) -o $(CURDIR)/$@ -ldflags "-s -w" ./pause

# No service of these packages is started: a policy-rc.d of our own says so while they are installed.
.cache/cluster-packages: Makefile
	@mkdir -p $(@D)
	@if ! command -v apt-get >/dev/null; then \
	  echo "Not a Debian system: make sure that these are there: $(CLUSTER_PACKAGES)"; \
	elif dpkg-query -W $(CLUSTER_PACKAGES) >/dev/null 2>&1; then :; \
	elif [ "$$(id -u)" = 0 ]; then \
	  $(WITH_PROGRESS) "Installing system packages: $(CLUSTER_PACKAGES)" tools/testcluster/install-packages $(CLUSTER_PACKAGES); \
	else \
	  echo "Please install as root: apt-get install $(CLUSTER_PACKAGES)"; exit 1; \
	fi
	@touch $@
