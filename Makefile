# The words you would guess: demo, test, check, bench, faults, night, proto, clean. Each does its own set-up.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
PROTOC := .venv-protoc/.installed

# A machine may be told to keep no bytecode. Tests start some 150 processes: what they import is compiled once.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test check types style proto proto-check bench faults night clean

demo: $(INSTALLED)
	@$(BIN)/dsd-client demo

# Two at a time: the tests wait more than they compute. A file stays together, and shares its swarm.
test: $(INSTALLED) check
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(INSTALLED) style types proto-check

style: $(INSTALLED)
	$(BIN)/ruff check .

types: $(INSTALLED)
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

# What make test shows in small, and what it has no time for. By night: the same, but longer.
PROMISES = tests/faults tests/fuzz tests/core/test_simulation.py tests/client/test_disordered_verdicts.py

faults: $(INSTALLED)
	DSD_TEST_SIZE=faults $(BIN)/python -m pytest -o faulthandler_timeout=1800 $(PROMISES)

night: $(INSTALLED)
	DSD_TEST_SIZE=night $(BIN)/python -m pytest -o faulthandler_timeout=1800 $(PROMISES)

# To compile all of torch takes longer than to compile what is imported of it.
PIP_INSTALL = pip install --quiet --disable-pip-version-check --no-compile

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "DSD needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/$(PIP_INSTALL) --constraint constraints.txt torch==2.13.0
	$(BIN)/$(PIP_INSTALL) --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The stubs are committed. They come from an old generator, so that they import under protobuf 5, 6 and 7.
GENERATE = .venv-protoc/bin/python -m grpc_tools.protoc -Idsd_core/wire/v1=proto/dsd/v1 \
	--plugin=.venv-protoc/bin/protoc-gen-mypy --plugin=.venv-protoc/bin/protoc-gen-mypy_grpc

proto: $(PROTOC)
	@$(GENERATE) --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. proto/dsd/v1/*.proto

proto-check: $(PROTOC)
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(GENERATE) --python_out=$$fresh --grpc_python_out=$$fresh --mypy_out=quiet:$$fresh --mypy_grpc_out=quiet:$$fresh \
		proto/dsd/v1/*.proto && \
	diff --brief --recursive --exclude=__init__.py --exclude=__pycache__ $$fresh/dsd_core/wire/v1 dsd_core/wire/v1 && \
	echo "The stubs are fresh." || { echo "The stubs are stale: run make proto and commit them."; exit 1; }

$(PROTOC):
	$(PYTHON) -m venv .venv-protoc
	.venv-protoc/bin/$(PIP_INSTALL) grpcio-tools==1.71.2 mypy-protobuf==3.6.0 'setuptools<81'
	@touch $@

clean:
	rm -rf .venv .venv-protoc build *.egg-info .pytest_cache .mypy_cache .ruff_cache
