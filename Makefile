# Everything on a fresh machine with Python >= 3.11 and make: `make demo`, `make test`.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
JAX    := $(VENV)/jax
CUDA   := $(VENV)/cuda
PEERS  := .venv-peers
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help demo test check format docs parity parity-jax gpu bench bench-tokenizers bench-peers peers clean

help:  ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: $(READY)  ## train on real text in Keras, load in PyTorch, show that both agree (report in demo_out/)
	$(BIN)/python docs/demo.py

test: $(READY)  ## run all tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: $(READY)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)  ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)  ## build the site into build/docs, warnings as errors
	$(BIN)/python -m sphinx -W --keep-going -b html docs build/docs

parity: $(READY)  ## prove that both frameworks compute the same: every family, head, key and mode (report in parity_out/)
	mkdir -p parity_out
	$(BIN)/xlbridge parity --all --modes all --jobs 2 --json parity_out/parity.json --junit parity_out/parity.xml \
		--html parity_out/parity.html

parity-jax: $(JAX)  ## PyTorch beside Keras on JAX, on the CPU: one model of each family (report in parity_out/)
	mkdir -p parity_out
	$(BIN)/xlbridge parity --all --first --modes all --frameworks torch,jax --json parity_out/jax.json \
		--html parity_out/jax.html

gpu: $(CUDA)  ## the same on CUDA, where a GPU is at hand, and words a second beside NVIDIA's tables
	mkdir -p parity_out
	$(BIN)/xlbridge parity --all --first --modes all --frameworks torch,jax --dtypes float32,bfloat16,float16 \
		--device cuda --json parity_out/gpu.json --html parity_out/gpu.html
	$(BIN)/python benchmarks/nvidia.py --out benchmarks/results/nvidia.json

bench: $(READY)  ## time our sides of every workload
	$(BIN)/python benchmarks/all.py

bench-peers: $(READY) $(PEERS)/ready  ## the same beside transformers 5 and 4.34.0 (torch, TensorFlow), by turns; draws it
	$(BIN)/python benchmarks/all.py --peer-python $(PEERS)/bin/python --folder docs/benchmarks \
		--picture docs/benchmarks/speed.png

bench-tokenizers: $(READY) $(PEERS)/ready  ## time our tokenizer beside transformers 4.34.0, in one run
	$(BIN)/python benchmarks/tokenizers.py --peer-python $(PEERS)/bin/python

peers: $(PEERS)/ready  ## make the environment of the peers: transformers 4.34.0 with TensorFlow 2.15

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "xlbridge needs Python >= 3.11; name it with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[torch,tf,fast,hub,plots,dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --upgrade \
		--target $(VENV)/kernels triton==3.9.0 || echo "no Triton for this machine: its tests are skipped"
	@touch $(READY)

$(JAX): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[jax]"
	@touch $(JAX)

$(CUDA): $(JAX)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "jax[cuda12]"
	@touch $(CUDA)

$(PEERS)/ready: benchmarks/peers-requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers-requirements.txt
	@touch $(PEERS)/ready

clean:  ## remove what was built
	rm -rf $(VENV) $(PEERS) build demo_out parity_out .pytest_cache .mypy_cache .ruff_cache .hypothesis
