# make run    set everything up in .venv, build the test guests and run one with serial port, disk and NIC
# make test   set up and run all tests; those that need what this machine lacks are skipped by name
# make lint   style, types and import contracts
# make bench  the benchmarks
# make fuzz   hostile inputs for everything that takes any, for SECONDS=60 seconds
# make guests the test guests alone, with a list of them
# make clean  forget everything that was made
#
# Another Python than python3: make PYTHON=python3.12 ...

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Its programs are called as modules: a script's first line names its Python, which works neither with blanks in the path
# nor with more than 255 bytes of it. All paths here are relative, since make separates names at blanks.

# What the installation depends on; pykvm's own Python files are used in place.
INSTALLS := pyproject.toml setup.py $(wildcard pykvm/kvm/_build.py pykvm/kvm/capabilities.py pykvm/kvm/sources.py pykvm/kvm/*.c pykvm/kvm/cdef/*.h)
INSTALLS := $(filter-out pykvm/kvm/_kvm.c,$(INSTALLS))
SCRATCH := build/scratch.img
SECONDS ?= 60

.PHONY: run test lint style types layers bench fuzz guests kvm clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

run: kvm $(VENV)/.installed $(SCRATCH)
	@./build_guests.sh > /dev/null
	$(BIN)/python -m pykvm run guests/build/demo.elf --disk $(SCRATCH) --nic loopback

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(TESTS)

lint: style types layers

style: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check

types: $(VENV)/.installed-dev
	$(BIN)/python -m mypy
	$(BIN)/python -m mypy tools/kvm_under_tcg
	MYPYPATH=tests $(BIN)/python -m mypy tests/conftest.py tests/cache.py tests/debian.py tests/device_table.py tests/features.py tests/perfetto_sql.py tests/zygote.py

layers: $(VENV)/.installed-dev
	$(BIN)/python -c 'from importlinter.cli import lint_imports_command as main; main()'

bench: kvm $(VENV)/.installed
	@./build_guests.sh > /dev/null
	@set -e; for bench in benchmarks/bench_*.py; do echo "== $$bench"; $(BIN)/python $$bench; done

fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

guests:
	./build_guests.sh

kvm:
	@tools/check_host.sh kvm

clean:
	rm -rf $(VENV) build dist guests/build ./*.egg-info pykvm/kvm/_kvm.c pykvm/kvm/_kvm.*so pykvm/kvm/_kvm.o
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find pykvm tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} +

# Without pip its making was interrupted; without python (a link) the Python that it was made from is gone.
$(BIN)/python $(BIN)/pip &:
	@tools/check_host.sh build $(PYTHON)
	$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.installed: $(INSTALLS) $(BIN)/python $(BIN)/pip
	@tools/check_host.sh build $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: $(INSTALLS) $(BIN)/python $(BIN)/pip
	@tools/check_host.sh build $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(VENV)/.installed $@

$(SCRATCH):
	@mkdir -p $(@D)
	truncate --size=1M $@
