# SPDX-License-Identifier: Apache-2.0
#
#   make demo      train, tune, prune and measure a small network (10 minutes on 2 cores); TUNER=autotvm for AutoTVM
#   make test      run the tests
#   make lint      check format, lint and types
#   make bench     run every benchmark (hours); make bench-NAME runs benchmarks/NAME.py
#   make sanitize  run the plug-in's tests under AddressSanitizer and UBSan
#   make tvm       make and install the TVM wheel alone
#   make clean     remove what was built, but for the virtual environment
# Each sets up what it needs in .venv first, once.

PYTHON ?= python3
TUNER ?= ansor
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check -q
STAMPS := $(VENV)/stamps
SOURCES := $(shell find python src cmake -type f -not -name '*.pyc') CMakeLists.txt pyproject.toml

.PHONY: demo test lint bench sanitize tvm install clean

demo: install
	$(BIN)/python tutorials/frontend/main.py --tuner $(TUNER) $(DEMO_ARGS)

test: install
	$(BIN)/python -m pytest $(TEST_ARGS)

lint: $(STAMPS)/tools
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror src/cprune/*.cc src/cprune/*.h
	$(BIN)/mypy

bench: $(patsubst benchmarks/%.py,bench-%,$(filter-out benchmarks/common.py benchmarks/holding_server.py,$(wildcard benchmarks/*.py)))

bench-%: install
	$(BIN)/python benchmarks/$*.py

sanitize: install
	cmake -S . -B build/sanitize -DCPRUNE_SANITIZE=ON -DCMAKE_BUILD_TYPE=Debug
	cmake --build build/sanitize
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 CPRUNE_LIBRARY_PATH=build/sanitize \
	  $(BIN)/python -m pytest tests/python/contrib/cprune/test_plugin.py

tvm: $(STAMPS)/tvm

install: $(STAMPS)/cprune

# TVM first: it bounds NumPy, which torch then takes over.
$(STAMPS)/venv:
	$(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS)
	touch $@

$(STAMPS)/tvm: tools/tvm_wheel.py constraints.txt $(STAMPS)/venv
	$(BIN)/python tools/tvm_wheel.py --out build/wheels
	$(PIP) install --force-reinstall --no-deps build/wheels/apache_tvm-*.whl
	$(PIP) install -c constraints.txt build/wheels/apache_tvm-*.whl
	touch $@

$(STAMPS)/tools: constraints.txt pyproject.toml $(STAMPS)/tvm
	$(PIP) install -c constraints.txt scikit-build-core ninja
	$(PIP) install -c constraints.txt --no-build-isolation '.[test,lint]'
	touch $@

$(STAMPS)/cprune: $(SOURCES) $(STAMPS)/tools
	$(PIP) install --no-build-isolation --no-deps --force-reinstall .
	touch $@

clean:
	rm -rf build dist runs .pytest_cache .mypy_cache .ruff_cache
