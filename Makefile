PYTHON := $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
.PHONY: quickstart test test-backends matrix oldest lint docs notebooks bench abuse clean

quickstart: .venv/examples
	$(BIN)/python -m keras_distill train --experiment=examples/quickstart.py --out=runs/quickstart --resume

test: .venv/dev
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder --durations=20 tests

# What every backend has, whole: JAX and PyTorch by themselves, then all three beside each other.
EVERY := tests/losses tests/metrics tests/projectors_test.py tests/taps tests/fused tests/models/exits \
	tests/models/peers tests/teachers/partial_test.py tests/keras_border_test.py tests/extend_test.py \
	tests/contract_test.py tests/training/as_student_test.py tests/training/every_backend_test.py \
	tests/training/defaults_test.py tests/callbacks/resume_test.py
test-backends: .backends/ready
	WHOLE=1 KERAS_BACKEND=torch .backends/bin/python -m pytest $(EVERY)
	WHOLE=1 KERAS_BACKEND=jax .backends/bin/python -m pytest $(EVERY)
	WHOLE=1 .backends/bin/python -m pytest tests/backends

.backends/ready: setup.py
	test -x .backends/bin/python || $(PYTHON) -m venv .backends
	.backends/bin/python -m pip install --quiet --editable ".[dev]" torch==2.13.0
	touch $@

# Every Python, Keras and TensorFlow that is supported, as far as this machine has the Pythons.
matrix:
	$(PYTHON) tests/matrix.py

oldest:
	$(PYTHON) tests/matrix.py --legs=oldest tests/keras_border_test.py tests/losses/response_test.py \
		tests/training/accumulation_test.py

# What `make test` has a little of, long: drawn distillations, damaged files, killed commands. Hours.
# Where it ended early, ABUSE_SEED=20 begins the cases with those behind the first 2,000.
abuse: .venv/dev
	ABUSE_CASES=$${ABUSE_CASES:-2000} ABUSE_MUTATIONS=$${ABUSE_MUTATIONS:-5000} \
		$(BIN)/python -m pytest -v tests/abuse
	$(BIN)/python tests/kills.py

lint: .venv/dev
	$(BIN)/ruff check .

# The site, in build/docs: open build/docs/index.html.
docs: .venv/docs
	$(BIN)/python docs/pictures.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --config-file docs/site/mkdocs.yml

# A notebook for each example, in build/notebooks.
notebooks:
	$(PYTHON) docs/notebooks.py

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
	rm -rf .venv .backends .matrix build *.egg-info
