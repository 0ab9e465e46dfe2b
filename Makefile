# What to do with a checkout. `make demo` and `make test` need Python 3.11 or later and make.
.DEFAULT_GOAL := help
.PHONY: help demo test versions neighbours lint format cluster cluster-down image plugin docs session bench scale steady simulate soak faults optima protos lock clean

PYTHON ?= python3
SEEDS ?= 10000
FIRST ?= 0
LIVES ?= 100000
PLATFORMS ?= linux/amd64,linux/arm64
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL := $(VENV)/bin/uv pip install --quiet --python $(RUN)
RUNTIME := $(VENV)/.runtime-installed
TESTING := $(VENV)/.testing-installed
PROVING := $(VENV)/.proving-installed
PROTOC := $(VENV)/protoc
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: $(RUNTIME) ## plan the examples offline and show the result; needs nothing but Python
	@echo '$$ kubectl-mpslice plan -f examples'
	@$(VENV)/bin/kubectl-mpslice plan -f examples; status=$$?; \
	if [ $$status -gt 1 ]; then exit $$status; fi; \
	echo; echo 'Status 1 of the command says that a pod was refused or not placed, as meant here.'

test: $(TESTING) $(PROTOC)/.installed ## the whole suite; the first run obtains a real cluster's parts (minutes, cached)
	-@$(RUN) -m hack.cluster parts
	-@$(RUN) -m hack.image >/dev/null
	@$(RUN) -m hack.suite $(PYTEST_ARGS)

versions: $(TESTING) ## what may differ, on the oldest and the newest Kubernetes; builds take half an hour, cached
	@$(RUN) -m hack.versions $(PYTEST_ARGS)

neighbours: $(TESTING) ## beside the real programs of other projects; builds take minutes, cached
	@MPSLICE_REQUIRE=cluster,neighbours $(RUN) -m pytest tests/neighbours $(PYTEST_ARGS)

lint: $(TESTING) ## ruff, mypy --strict, import-linter
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

format: $(TESTING) ## what ruff can mend by itself
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

cluster: $(TESTING) ## a real local cluster with mpslice and two simulated GPUs
	@$(RUN) -m hack.cluster up

cluster-down: $(TESTING) ## stop it
	@$(RUN) -m hack.cluster down

image: $(TESTING) ## the container image (PLATFORMS) as an OCI archive, and its SBOM, in dist/; needs no engine
	@$(RUN) -m hack.image --platform $(PLATFORMS) --output dist/mpslice.oci.tar
	@$(VENV)/bin/cyclonedx-py requirements --output-reproducible --output-file dist/mpslice.cdx.json requirements-image.lock

plugin: $(TESTING) ## kubectl mpslice alone and its manual, in dist/; PLUGIN_URL=… adds a manifest for krew
	@$(RUN) -m hack.plugin --output dist --url '$(PLUGIN_URL)'

docs: $(TESTING) ## the documentation as a site, in site/
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	@echo 'open site/index.html'

session: $(TESTING) ## play docs/session.md on a real control plane and record what its commands print
	@$(RUN) -m tests.cli.session

bench: $(TESTING) ## every benchmark; ratios against baselines of the same run
	@$(RUN) -m benchmarks

scale: $(TESTING) ## the cluster benchmark on 10 to 1,000 nodes, the planner alone on 1,000, and benchmarks/RESULTS.md of it (a quarter of an hour)
	@$(RUN) -m benchmarks.cluster --nodes 10 --burst 80 --rate 4 --waiting 100 --save benchmarks/results/cluster-10.json
	@$(RUN) -m benchmarks.cluster --nodes 100 --burst 200 --rate 10 --seconds 40 --waiting 50 --patience 60 --save benchmarks/results/cluster-100.json
	@$(RUN) -m benchmarks.cluster --nodes 300 --phases steady --load 0.5 --rate 50 --seconds 20 \
		--save benchmarks/results/cluster-300.json
	@$(RUN) -m benchmarks.cluster --nodes 1000 --phases burst unplaceable --waiting-gb 81 --patience 300 \
		--save benchmarks/results/cluster-1000.json
	@$(RUN) -m benchmarks.planner_at_scale --save benchmarks/results/planner-1000.json
	@$(RUN) -m benchmarks.results

steady: $(TESTING) ## an hour of arrivals on 1,000 full nodes, and benchmarks/RESULTS.md of it (hours)
	@$(RUN) -m benchmarks.cluster --nodes 1000 --phases steady --seconds 3600 --patience 3600 --limit 14400 \
		--save benchmarks/results/cluster-1000-steady.json
	@$(RUN) -m benchmarks.results

simulate: $(TESTING) ## the whole system in virtual time, SEEDS runs (10,000) from FIRST (0) on
	@$(RUN) -m tests.simulation --first $(FIRST) --seeds $(SEEDS) --processes 2

faults: SEEDS = 34
faults: $(TESTING) ## faults on a real control plane, SEEDS runs (34, each fault once) from FIRST (0) on
	@$(RUN) -m tests.faults --first $(FIRST) --seeds $(SEEDS)

soak: $(TESTING) ## LIVES pods (100,000) come and go in virtual time: memory and descriptors by decile (three quarters of an hour)
	@$(RUN) -m tests.simulation.soak --lives $(LIVES)

optima: $(PROVING) ## prove the optima that the packing benchmark compares with anew (half an hour)
	@$(RUN) -m benchmarks.packing_optima

protos: $(PROTOC)/.installed ## generate the kubelet's gRPC code anew from its .proto files
	@PATH="$(CURDIR)/$(PROTOC)/bin:$$PATH" $(PROTOC)/bin/python -m grpc_tools.protoc -I. \
		--python_out=. --mypy_out=quiet:. --grpc_python_out=. --mypy_grpc_out=quiet:. \
		nodeagent/kubelet_api/*.proto

lock: $(TESTING) ## resolve the dependencies afresh into the lock files
	@$(VENV)/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--quiet --upgrade setup.cfg --extra programs --extra test --extra docs --extra solver \
		--output-file requirements-test.lock
	@$(VENV)/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--quiet setup.cfg --constraint requirements-test.lock --output-file requirements.lock
	@$(VENV)/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--quiet setup.cfg --extra programs --extra solver --constraint requirements-test.lock \
		--output-file requirements-image.lock
	@$(VENV)/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--quiet setup.cfg --extra programs --extra bench --constraint requirements-test.lock \
		--output-file requirements-bench.lock
	@$(VENV)/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--quiet --upgrade hack/protoc.in --output-file hack/protoc.lock

clean: ## remove what was made here; the cluster's parts stay in their cache
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

# uv installs in seconds what takes pip a minute; pip itself brings it.
$(VENV)/bin/uv: hack/uv.lock
	@sh hack/venv.sh $(PYTHON) $(VENV)
	@$(VENV)/bin/pip install --quiet --require-hashes -r hack/uv.lock
	@touch $@

$(RUNTIME): requirements.lock setup.cfg pyproject.toml | $(VENV)/bin/uv
	@echo 'installing the dependencies ...'
	@$(INSTALL) --require-hashes -r requirements.lock
	@$(INSTALL) --no-deps --editable .
	@touch $@

$(TESTING): requirements-test.lock $(RUNTIME)
	@echo 'installing what the tests need ...'
	@$(INSTALL) --require-hashes -r requirements-test.lock
	@touch $@

# Apart from the rest, which needs a newer protobuf: code from an old generator loads on all runtimes.
$(PROTOC)/.installed: hack/protoc.lock $(TESTING)
	@echo 'installing the generator of the kubelet API ...'
	@$(VENV)/bin/uv venv --quiet --clear --python $(RUN) $(PROTOC)
	@$(VENV)/bin/uv pip install --quiet --python $(PROTOC)/bin/python --require-hashes -r hack/protoc.lock
	@touch $@

$(PROVING): requirements-bench.lock $(TESTING)
	@echo 'installing what a proof needs ...'
	@$(INSTALL) --require-hashes -r requirements-bench.lock
	@touch $@
