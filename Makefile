# `make demo` and `make test` need Python 3.11 or later and nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all data docs lint clean

demo: $(VENV)/.installed
	$(BIN)/zeroskip demo --out demo

test: $(VENV)/.installed lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

# The long runs, on seeds that are drawn anew; their last results are in docs/campaigns.md.
test-all: $(VENV)/.installed lint
	OMP_NUM_THREADS=1 ZEROSKIP_CAMPAIGN=1 $(BIN)/pytest -n 2 --timeout 7200 --seed fresh

# Fashion-MNIST, for `zeroskip bench fashion`.
data:
	apt-get install --yes dataset-fashion-mnist

# Documents of the registers, and their C header.
docs: $(VENV)/.installed
	mkdir -p build
	$(BIN)/zeroskip verilog accelerator -o build/accelerator.v
	$(BIN)/peakrdl c-header build/accelerator.rdl -o docs/accelerator.h
	$(BIN)/peakrdl html build/accelerator.rdl -o docs/registers

lint: $(VENV)/.installed
	$(BIN)/ruff check .

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,dev,fpga]'
	command -v g++ || command -v clang++ || command -v c++ \
		|| $(BIN)/pip install --quiet --constraint constraints.txt ziglang
	touch $@

clean:
	rm -rf $(VENV) build demo *.egg-info
