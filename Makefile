# SPDX-License-Identifier: Apache-2.0
#
#   make demo      train, tune, prune and time a small network (about 6 minutes on 2 cores)
#                  TUNER=autotvm uses AutoTVM; DEMO_ARGS holds further options of tutorials/frontend/main.py
#   make test      run the tests; TEST_ARGS holds further options of pytest
#   make lint      check formatting, lint and types
#   make bench     run all benchmarks (hours); one of them: make bench-transplant for benchmarks/transplant.py
#   make sanitize  run the plug-in's tests with AddressSanitizer and UBSan
#   make install   build and install everything into .venv
#   make tvm       build and install only the TVM wheel
#   make clean     delete build products, caches and results of benchmarks, but not .venv or runs
#
# Each target first installs what it needs into .venv. VENV=.venv-source uses the virtual environment that
# tools/build_tvm.py made: there, TVM is built from source with CPrune's C++ code in libtvm.

PYTHON ?= python3
TUNER ?= ansor
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check -q
STAMPS := $(VENV)/stamps
# The wheel that tools/build_tvm.py made; empty in other virtual environments, which get the one of tools/tvm_wheel.py.
SOURCE_WHEEL := $(wildcard $(VENV)/wheels/apache_tvm-*.whl)
WHEELS := $(if $(SOURCE_WHEEL),$(VENV),build)/wheels
SOURCES := $(shell find python src cmake -type f -not -name '*.pyc') CMakeLists.txt pyproject.toml

.PHONY: demo test lint bench sanitize tvm install clean

demo: install
	$(BIN)/python tutorials/frontend/main.py --tuner $(TUNER) $(DEMO_ARGS)

test: install
	$(BIN)/python -m pytest $(TEST_ARGS)

lint: $(STAMPS)/tools
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror benchmarks/*.cc src/cprune/*.cc src/cprune/*.h \
	  tools/ffi_headers/tvm/runtime/*.h
	$(BIN)/mypy

# llvm_versions needs a second installation of TVM, make_starters changes the package, and the others are parts of
# benchmarks.
BENCHMARKS := $(filter-out ablation_runs bounds common core_distance equal_macs holding_server llvm_versions \
  make_starters methods_report methods_rows new_search peers stack_% tutorial_runs untrained, \
  $(patsubst benchmarks/%.py,%,$(wildcard benchmarks/*.py)))

bench: $(addprefix bench-,$(BENCHMARKS))

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

WHEEL_TOOL := $(addprefix tools/,tvm_wheel.py wheel_file.py wheel_native.py shell.py)

# TVM comes first because it bounds the version of NumPy.
$(STAMPS)/venv:
	$(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS)
	touch $@

$(STAMPS)/tvm: $(or $(SOURCE_WHEEL),$(WHEEL_TOOL)) constraints.txt $(STAMPS)/venv
	$(if $(SOURCE_WHEEL),,$(BIN)/python tools/tvm_wheel.py --out $(WHEELS))
	$(PIP) install --force-reinstall --no-deps $(WHEELS)/apache_tvm-*.whl
	$(PIP) install -c constraints.txt $(WHEELS)/apache_tvm-*.whl
	touch $@

$(STAMPS)/tools: constraints.txt pyproject.toml $(STAMPS)/tvm
	$(PIP) install -c constraints.txt scikit-build-core ninja
	$(PIP) install -c constraints.txt --no-build-isolation '.[test,lint]'
	touch $@

# A libtvm built from source contains the functions of the plug-in.
$(STAMPS)/cprune: $(SOURCES) $(STAMPS)/tools
	$(PIP) install --no-build-isolation --no-deps --force-reinstall \
	  $(if $(SOURCE_WHEEL),--config-settings=cmake.define.USE_CPRUNE=OFF) .
	touch $@

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
