# edgecache: `make run` and `make test` are all a fresh machine needs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.built
FROM   ?=
NATIVE := $(shell find src -name '*.pyx' -o -name '*.pxd') setup.py pyproject.toml

.PHONY: run demo test torture sanitize fuzz bench lint wheel wheel-check build clean

build: $(STAMP)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77" "Cython>=3.3,<3.4"

$(STAMP): $(BIN)/python $(NATIVE)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[serve,test,bench,lint]"
	@touch $@

run: $(STAMP)
	@mkdir -p out
	$(BIN)/edgecache serve --root out/demo-root --memory 256MiB --disk 1GiB

demo: $(STAMP)
	$(BIN)/python -m bench.demo $(if $(FROM),--from "$(FROM)")

test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

# The long forms of all rows, about an hour; ROWS and ARGS choose (docs/reliability.md).
torture: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m torture $(ROWS) --long --json out/torture.json $(ARGS)

sanitize: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m torture sanitize --long --json out/sanitize.json $(ARGS)

fuzz: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m torture fuzz --long --json out/fuzz.json $(ARGS)

bench: $(STAMP)
	$(BIN)/python -m bench.run --suite io --plot out/bench --json out/bench/io.json

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check src tests bench setup.py
	PATH="$(abspath $(BIN)):$$PATH" cython-lint $$(find src/edgecache -name "*.p[yx][xd]")
	$(BIN)/mypy
	$(BIN)/stubtest edgecache._core --mypy-config-file pyproject.toml
	$(BIN)/python -m pytest -q tests/tidy

wheel: $(BIN)/python
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# Installs the wheel where there is nothing else, and uses it from outside of the tree.
wheel-check: wheel
	rm -rf build/wheel-check
	$(PYTHON) -m venv build/wheel-check
	build/wheel-check/bin/python -m pip install --quiet "$$(ls -t dist/edgecache-*.whl | head -n 1)"
	cd / && "$(abspath build/wheel-check)/bin/python" -I "$(abspath tests/wheel_smoke.py)"

clean:
	rm -rf build dist out src/*.egg-info
	find src -name '*.so' -delete
