# `make demo` and `make test` are all that a new user needs; both set up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Cores that the tests use at once.
JOBS ?= 2
# Slow tests run where SOMITE_SLOW is set, as in .ci/run.
MARK := -m "not slurm and not container$(if $(SOMITE_SLOW),, and not slow)"

.PHONY: demo test test-slurm test-container check bench gallery lock clean

demo: $(VENV)/installed
	$(BIN)/python -m somite.demo demo

test: check
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(MARK) tests

# A phantom cohort on a Slurm of one node; needs root and the Debian packages slurm-wlm and munge.
test-slurm: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slurm tests/slurm

# Builds the images and runs them on a phantom cohort; needs root, and a Docker engine or the Debian packages
# debootstrap, buildah, podman and runc. SOMITE_CONTAINER_DIR keeps what is built: build/container.
test-container: $(VENV)/installed-container
	SOMITE_REQUIRE=hadolint,debootstrap,buildah,podman,runc $(BIN)/python -m pytest -m container tests/container

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed-dev
	$(BIN)/python benchmarks/run.py

# The pictures of docs/gallery.md; needs the Debian package chromium. The runs stay in build/gallery.
gallery: $(VENV)/installed-dev
	$(BIN)/python docs/gallery.py build/gallery

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "Somite needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Exact versions with hashes, then the package itself, built with the locked setuptools.
$(VENV)/installed: requirements.lock setup.cfg pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --require-hashes --only-binary :all: -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/installed-dev: requirements-dev.lock $(VENV)/installed
	$(PIP) install --quiet --require-hashes --only-binary :all: -r requirements-dev.lock
	@touch $@

$(VENV)/installed-container: tests/container/requirements.lock $(VENV)/installed-dev
	$(PIP) install --quiet --require-hashes --only-binary :all: -r tests/container/requirements.lock
	@touch $@

# Locks anew; needs uv. One set of versions serves every supported Python.
LOCK := uv pip compile setup.cfg --quiet --universal --python-version 3.11 --fork-strategy fewest \
        --generate-hashes --no-header --no-annotate --extra build
lock:
	$(LOCK) --output-file requirements.lock
	$(LOCK) --extra dev --constraint requirements.lock --output-file requirements-dev.lock

clean:
	rm -rf $(VENV) build dist demo *.egg-info .mypy_cache .pytest_cache .ruff_cache
