# One environment per purpose: `make demo` installs what the demo needs, everything else the whole tool box.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check -q
COOKBOOK := $(VENV)/cookbook
PURELIB := -c "import sysconfig; print(sysconfig.get_path('purelib'))"

.PHONY: help setup demo test lint types layers acceptance gpu proto clean

help:  ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e ".[server,cookbook]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e ".[server,cookbook,envs,dev]"
	@touch $@ $(VENV)/.demo

# The official cookbook wants packages that are not to be had everywhere, so pip must not resolve it: it lies in an
# environment of its own and finds the rest of what it needs in the main one.
$(VENV)/.cookbook: tests/official/cookbook-requirements.txt $(VENV)/.dev
	$(BIN)/python -m venv --clear --without-pip $(COOKBOOK)
	$(BIN)/python $(PURELIB) > "$$($(COOKBOOK)/bin/python $(PURELIB))/main.pth"
	$(PIP) --python $(COOKBOOK)/bin/python install --no-deps -r $<
	@touch $@

setup: $(VENV)/.dev $(VENV)/.cookbook  ## make .venv with everything

demo: $(VENV)/.demo  ## watch a model learn pig latin, offline, on a CPU
	$(BIN)/tinsmith demo

lint: $(VENV)/.dev  ## format and lint
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: $(VENV)/.dev  ## type-check
	$(BIN)/pyright

layers: $(VENV)/.dev  ## check that arrows point down only
	$(BIN)/lint-imports

# Without its byte code pytest would rewrite every assertion anew in each worker, which takes half of the collection.
test: export PYTHONDONTWRITEBYTECODE =
test: lint types layers $(VENV)/.cookbook  ## everything that must be green; the slow tests are in acceptance
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

acceptance: setup  ## the slow tests too: learning runs and chaos, with a table row by row
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu" --hypothesis-profile=thorough --rows=acceptance.json --rows-page=docs/acceptance.md

gpu:  ## the first minutes on a bare GPU machine, with that machine's own Python: tests, benchmarks, profiles
	PYTHONPATH=src:. $(PYTHON) -m benchmarks.gpu $(GPU)

proto: $(BIN)/python  ## regenerate the protobuf code (an older compiler, so that more runtimes accept it)
	$(PYTHON) -m venv build/protoc
	build/protoc/bin/pip -q install grpcio-tools==1.74.0 setuptools
	build/protoc/bin/python -m grpc_tools.protoc -Isrc/tinsmith/types/proto --python_out=src/tinsmith/types/proto \
	  --pyi_out=src/tinsmith/types/proto src/tinsmith/types/proto/tinsmith.proto
	sed -i '1i # pyright: basic' src/tinsmith/types/proto/tinsmith_pb2.pyi

clean:  ## remove the environment and caches
	rm -rf $(VENV) build .pytest_cache .ruff_cache .hypothesis
