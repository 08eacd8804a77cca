# Two commands do everything: `make demo` and `make test`. Both set up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# libgomp spins while it waits and starves its neighbours; a short spin is as fast when alone, and kind when not.
export OMP_WAIT_POLICY = PASSIVE
export GOMP_SPINCOUNT = 10000

.PHONY: setup demo test lint coverage slow trt tables clean

setup: $(VENV)/.done

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: setup
	$(BIN)/edgekd demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks
	$(BIN)/lint-imports

test: setup lint
	$(BIN)/python benchmarks/render.py --check
	$(BIN)/pytest -q -n 2 --dist loadfile
	$(BIN)/python tests/trt/fetch.py builder || echo "NVIDIA's tests will be skipped"
	$(BIN)/pytest -q -m "trt and not slow" tests/trt

# the same tests under a tracer, slower, and which lines none of them reached
coverage: setup
	$(BIN)/pytest -q -n 2 --dist loadfile --cov --cov-report=term:skip-covered --cov-fail-under=85

slow: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,cluster]"
	$(BIN)/pytest -q -m slow

# NVIDIA's bindings of four versions and its builder for RTX, from the package index, on every student of the zoo.
trt: setup
	$(BIN)/python tests/trt/fetch.py builder
	EDGEKD_REQUIRE_TRT=1 $(BIN)/pytest -q -m trt tests/trt

tables: setup
	$(BIN)/python benchmarks/render.py

clean:
	rm -rf $(VENV) runs benchmarks/cache .cache .pytest_cache .mypy_cache .ruff_cache .coverage
