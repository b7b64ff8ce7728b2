PYTHON := $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
.PHONY: quickstart test test-backends lint bench clean

quickstart: .venv/examples
	$(BIN)/python -m keras_distill train --experiment=examples/quickstart.py --out=runs/quickstart --resume

test: .venv/dev
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder tests

# Losses and projectors on Keras's other backends, where there is no TensorFlow.
test-backends: .backends/ready
	KERAS_BACKEND=torch .backends/bin/python -m pytest tests/losses tests/projectors_test.py
	KERAS_BACKEND=jax .backends/bin/python -m pytest tests/losses tests/projectors_test.py

.backends/ready:
	test -x .backends/bin/python || $(PYTHON) -m venv .backends
	.backends/bin/python -m pip install --quiet "keras>=3.15" absl-py pytest jax torch
	touch $@

lint: .venv/dev
	$(BIN)/ruff check .

# Hours on two cores. Those that need data are run by hand: benchmarks/README.md.
MEASURED := step_overhead cached_epoch losses lean_teachers large_vocabulary imports scale
bench: .venv/dev
	mkdir -p runs/benchmarks
	for name in $(MEASURED); do \
		$(BIN)/python benchmarks/$$name.py --json=runs/benchmarks/$$name.json || exit 1; done

# Each set of extras is installed once, and again when setup.py changes.
.venv/%: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

clean:
	rm -rf .venv .backends build *.egg-info
