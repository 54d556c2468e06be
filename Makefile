# Everything goes through .venv, which `make build` makes. LISTEN and DATA may be given: make run DATA=/srv/feed
LISTEN ?= 127.0.0.1:50051
DATA ?= data
PY := .venv/bin/python
SOURCES := $(shell find ext benchmarks/ext \( -name '*.pyx' -o -name '*.pxd' -o -name '*.h' \) 2>/dev/null)
PROTOS := $(shell find proto -name '*.proto' 2>/dev/null)
MICRO := $(basename $(notdir $(wildcard benchmarks/micro/bench_*.py)))

.PHONY: build build-bench run fuzz test-asan test test-all test-unit interop-clients bench bench-cluster bench-full bench-micro bench-transport bench-small \
    services services-stop test-cluster lint coverage test-python wheel clean help
.DEFAULT_GOAL := help

help:
	@echo "make build        .venv, install, compile (quick when nothing changed)"
	@echo "make run          build, serve on $(LISTEN) with ./$(DATA), demo world when it is empty"
	@echo "make test         everything this machine can prove, short variants"
	@echo "make test-unit    the inner loop: unit tests, style, layers"
	@echo "make test-all     the long variants, too"
	@echo "make interop-clients   clients of other gRPC stacks, for the tests that call with them"
	@echo "make services     Redis, Kafka, Cassandra on loopback, for development"
	@echo "make test-cluster tests on clusters of three of each, with nodes killed"
	@echo "make bench        the load benchmark, every scenario small: a few minutes"
	@echo "make bench-cluster   the same over Redis, Kafka and Cassandra, started for it"
	@echo "make bench-full   its full run, with the report in benchmarks/results: an hour"
	@echo "make bench-micro  micro benchmarks, full size"
	@echo "make bench-transport   beside grpc.aio, nghttpd, tonic, grpc-go, gRPC C++: half an hour"
	@echo "make test-asan    the native transport's suites with sanitizers"
	@echo "make fuzz         coverage-guided fuzzing of it, SECONDS=60 each"
	@echo "make lint         ruff, mypy, stubtest, import-linter: within a minute"
	@echo "make coverage     which lines the unit suite reaches, by package"
	@echo "make test-python  unit suite and engine on another Python: PYTHON=python3.13"
	@echo "make wheel        dist/: a wheel with libnghttp2 inside and a source archive, tried in an empty environment"
	@echo "make clean        what was built, not your data"

build: .venv/.compiled

build-bench: .venv/.compiled-bench

# The environment: made again only when what is installed changes, whatever the dates of the files say.
WANTED := $(shell cat pyproject.toml setup.py scripts/bootstrap.sh | cksum | cut -d' ' -f1)
ifneq ($(WANTED),$(shell cat .venv/.installed 2>/dev/null))
.PHONY: .venv/.installed
endif
.venv/.installed:
	@sh scripts/bootstrap.sh .venv
	@echo $(WANTED) >$@

# Compiled modules and protobuf code. setup.py compiles only what changed.
.venv/.compiled: .venv/.installed $(SOURCES) $(PROTOS) scripts/generate_protos.py scripts/compiling.py
	@$(PY) setup.py -q build_ext --inplace
	@touch $@

# The load generator's compiled modules: for benchmarks and their tests only.
.venv/.compiled-bench: .venv/.compiled
	@cd benchmarks && ../$(PY) setup.py -q build_ext --inplace
	@touch $@

run: build
	@exec sh scripts/run.sh $(LISTEN) $(DATA)

# Tests run side by side, then those that measure time or need a core for themselves. The unit suite runs twice: with
# the compiled modules, and with their Python twins. More processes than cores, since many tests wait.
# Unit tests do not wait: a process a core.
TEST_WORKERS ?= $(shell expr $$(nproc) + 1)
BY_GROUP := --dist loadgroup --no-loadscope-reorder
SIDE_BY_SIDE := -n $(TEST_WORKERS) $(BY_GROUP)
# What pytest compiles of test modules is kept: half of the time that a collection takes.
unexport PYTHONDONTWRITEBYTECODE
test: build-bench interop-clients
	$(PY) -m pytest -q $(SIDE_BY_SIDE) -m "not alone" tests
	$(PY) -m pytest -q -m alone tests
	FEEDCORE_NO_EXTENSIONS=1 $(PY) -m pytest -q $(SIDE_BY_SIDE) tests/unit tests/process
	$(MAKE) --no-print-directory bench-small

test-all: export FEEDCORE_LONG=1
test-all: test

# The inner loop: no process, no server, no sleep.
test-unit: build-bench
	$(PY) -m pytest -q -n $$(nproc) $(BY_GROUP) tests/test_tidy.py tests/test_layers.py tests/unit

# Clients of grpc-go, grpc-java and grpc-js below build/interop: built once, again when their lock files change.
interop-clients: build-bench
	@$(PY) -m tests.conformance.interop.builds

# Engines on loopback, below build/services; SERVICES="--cassandra 3 --only cassandra" for others.
SERVICES ?=
services: build
	$(PY) scripts/services start $(SERVICES)
	@$(PY) scripts/services env

services-stop: build
	$(PY) scripts/services stop

# What is true only of several nodes of which some die. An engine that cannot be had is a failure here.
CLUSTER_TESTS ?= $(wildcard tests/cluster) tests/integration/test_services.py tests/integration/test_engine.py
test-cluster: build-bench
	FEEDCORE_LONG=1 FEEDCORE_REQUIRE_SERVICES=1 $(PY) -m pytest -q $(CLUSTER_TESTS)

# Small: checks results, not times, so that benchmarks never rot.
bench-small: build-bench
	@set -e; for name in $(MICRO); do \
	    echo "benchmarks.micro.$$name --small"; $(PY) -m benchmarks.micro.$$name --small; done
	$(PY) -m benchmarks.transport --small
	$(PY) -m benchmarks.transport.spread --small
	$(PY) -m feedcore_bench.ceiling --small
	$(PY) -m feedcore_bench --tiny
	@if $(PY) scripts/services fetch >build/bench-engines.log 2>&1; then \
	    $(PY) -m feedcore_bench --tiny --profile cluster; code=$$?; \
	    $(PY) scripts/services stop --dir build/bench/services; exit $$code; \
	else echo "no engines: the cluster profile is not benchmarked; see build/bench-engines.log"; fi

# A server of its own on one core, people on the other, every answer checked; docs/benchmarks.md says what it measures.
# PROFILE=cluster: over Redis, Kafka and Cassandra.
PROFILE ?= embedded
bench: build-bench
	$(PY) -m feedcore_bench --small --profile $(PROFILE)

bench-cluster: build-bench
	$(PY) -m feedcore_bench --small --profile cluster --out benchmarks/results

bench-full: build-bench
	$(PY) -m feedcore_bench --full --out benchmarks/results

bench-micro: build-bench
	@set -e; for name in $(MICRO); do $(PY) -m benchmarks.micro.$$name; done

# Peers that cannot be built here are named and left out. Needs h2load: apt-get install nghttp2-client
bench-transport: build-bench
	$(PY) -m benchmarks.transport.build
	$(PY) -m benchmarks.transport
	$(PY) -m benchmarks.transport.spread

# The transport's modules with AddressSanitizer and UndefinedBehaviorSanitizer, built beside the usual ones.
ASAN_LIB := build/asan/lib
ASAN_ENV := PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 FEEDCORE_NATIVE=$(ASAN_LIB)/feedcore/_native
ASAN_TESTS ?= tests/unit/transport tests/unit/test_cache.py tests/unit/benchmarks tests/fuzz tests/property/test_h2_session.py tests/conformance/test_native.py
test-asan: build-bench
	FEEDCORE_SANITIZE=1 $(PY) setup.py -q build_ext --build-lib $(ASAN_LIB) --build-temp build/asan/temp
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" $(ASAN_ENV) \
	    $(PY) -m pytest -q -p tests.support.otherbuild $(ASAN_TESTS)

# Coverage-guided, for SECONDS each. Needs atheris, for its libFuzzer: .venv/bin/pip install 'atheris>=3,<4'
SECONDS ?= 60
fuzz: build-bench
	FEEDCORE_SANITIZE=1 FEEDCORE_COVERAGE=1 $(PY) setup.py -q build_ext --build-lib build/fuzz/lib \
	    --build-temp build/fuzz/temp
	$(PY) -m tests.fuzz.run session --seconds $(SECONDS)
	$(PY) -m tests.fuzz.run framing --seconds $(SECONDS)

# Compiles everything anew, from the source archive.
wheel: build
	@sh scripts/make_wheel.sh
	@sh scripts/try_wheel.sh

# Style, types, the stubs of compiled modules, and who may import whom.
lint: build-bench
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) scripts/typecheck.py
	.venv/bin/lint-imports --no-logo

# Which lines the unit suite reaches, in its processes, too: a table by package, not a gate.
coverage: build-bench
	@mkdir -p build/coverage
	-$(PY) -m coverage run -m pytest -q tests/unit
	@$(PY) -m coverage combine -q
	@$(PY) scripts/coverage_table.py

# The unit suite and the engine on another Python that is installed here.
PYTHON ?= python3.13
test-python:
	@sh scripts/test_python.sh $(PYTHON)

clean:
	rm -rf .venv build dist feedcore_pb *.egg-info .pytest_cache .hypothesis .ruff_cache
	find ext -name '*.so' -o -name '*.c' -o -name '*.cpp' | xargs -r rm -f
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
