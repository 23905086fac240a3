# `make demo` and `make test` need Python 3.11 or later and nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all mutate data docs lock lint clean

demo: $(VENV)/.installed
	$(BIN)/zeroskip demo -o demo

test: $(VENV)/.installed lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

# The long runs, on seeds that are drawn anew; their last results are in docs/regression.md.
test-all: $(VENV)/.installed lint
	OMP_NUM_THREADS=1 ZEROSKIP_REGRESSION=1 $(BIN)/pytest -n 2 --timeout 7200 --seed fresh

# How many small faults in the sources the tests notice: an hour or two on two cores.
mutate: $(VENV)/.installed
	nice $(BIN)/python tests/mutate.py --output docs/mutation.md

# Fashion-MNIST, for `zeroskip bench fashion`.
data:
	apt-get install --yes dataset-fashion-mnist

# Documents of the registers, and their C header.
docs: $(VENV)/.installed
	mkdir -p build
	$(BIN)/zeroskip verilog accelerator -o build/accelerator.v
	$(BIN)/peakrdl c-header build/accelerator.rdl -o docs/accelerator.h
	$(BIN)/peakrdl html build/accelerator.rdl -o docs/registers

# The lock file anew, after a change of pyproject.toml or constraints.txt.
lock: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt uv
	printf 'pip\nsetuptools\n' | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
		--extra train --extra dev --extra fpga --constraint constraints.txt --generate-hashes \
		--no-annotate --custom-compile-command 'make lock' --no-emit-package torch \
		--output-file requirements.lock pyproject.toml -

TYPED := -p zeroskip.sw.graph -p zeroskip.sw.compiler -p zeroskip.sw.runtime \
	-m zeroskip.sw.engines.base -m zeroskip.sw.engines.registry

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	mkdir -p build/types
	ln -sfn ../.. build/types/zeroskip
	$(BIN)/mypy $(TYPED)

# What requirements.lock names, hash by hash; then torch, whose builds differ; then the project.
$(VENV)/.installed: pyproject.toml constraints.txt requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes --no-deps --requirement requirements.lock
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	command -v g++ || command -v clang++ || command -v c++ \
		|| $(BIN)/pip install --quiet --constraint constraints.txt ziglang
	touch $@

clean:
	rm -rf $(VENV) build demo *.egg-info
