# `make demo` runs the main job on a real engine and a real model; `make test` passes the tests.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
MARKERS ?= not slow and not gpu
FILES := --dist loadfile

.PHONY: doctor-score doctor-docs demo prove system-parts test test-slow test-newest test-arm lint fmt clean

$(VENV)/.core: pyproject.toml src/overspan/__init__.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(VENV)/.core
	OVERSPAN=$(BIN)/overspan scripts/demo.sh

# Every layout of a MiniMax-M2 twin on this machine's CPU, token for token against transformers.
prove: $(VENV)/.core
	$(BIN)/overspan engine install cpu
	$(BIN)/overspan prove minimax-m2.5-nvfp4 --layouts all

# The system's own parts that tests marked `real` use. Without root nothing is installed and those tests say why they skip.
system-parts:
	tests/support/system_parts.sh

# Pure tests on every core while engines are installed; then the real parts, which wait more than they work, a file at a
# time in three workers.
test: $(VENV)/.dev system-parts
	( $(BIN)/overspan engine install cpu && $(BIN)/overspan engine install router ) & engines=$$!; \
	status=0; \
	$(BIN)/python -m pytest -m "$(MARKERS) and not real" -n 2 $(FILES) || status=$$?; \
	wait $$engines || status=$$?; \
	$(BIN)/python -m pytest -m "$(MARKERS) and real" -n 3 $(FILES) || status=$$?; \
	exit $$status

test-slow: $(VENV)/.dev system-parts
	$(BIN)/overspan engine install cpu
	$(BIN)/overspan engine install cpu-ray
	$(BIN)/overspan engine install dynamo
	$(BIN)/overspan engine install router
	$(BIN)/python -m pytest -m slow

# The core's tests on the newest Python at hand, without the parts that need an engine or the system's programs.
NEWEST ?= python3.13
test-newest:
	$(MAKE) $(VENV)-newest/.dev PYTHON=$(NEWEST) VENV=$(VENV)-newest
	$(VENV)-newest/bin/python -m pytest -m "not real and not slow and not gpu"

# The core on aarch64, in an emulated root of Debian's packages.
test-arm: $(VENV)/.dev
	$(BIN)/python -m pytest -m arm

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/house.py

fmt: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

doctor-score: $(VENV)/.core
	$(BIN)/python benchmarks/doctor_score.py

doctor-docs: $(VENV)/.core
	$(BIN)/python scripts/doctor_docs.py tests/doctor > docs/doctor.md

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache dist
