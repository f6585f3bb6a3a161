# make demo · make test · make setup: each sets up what it needs; the second time in seconds.

PYTHON ?= python3
UV_VERSION := 0.13.8
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEBIAN := $(shell cat docker/debian-packages.txt)

.PHONY: demo test setup lint format lock bench clean

demo: $(READY)
	@$(BIN)/python -m tests.demo

test: $(READY) lint
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

setup: $(READY)
	@echo "ready: $(BIN)/reel3d --help"

lint: $(READY)
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet . && $(BIN)/basedpyright --level error

format: $(READY)
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

lock:
	@$(BIN)/uv pip compile pyproject.toml --extra decord --extra dev --universal \
	  --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet \
	  --upgrade -o requirements.lock

bench: $(READY)
	@cat benchmarks/README.md

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache

$(READY): requirements.lock pyproject.toml docker/debian-packages.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "reel3d needs Python 3.11 to 3.13, and $(PYTHON) is $$($(PYTHON) -V); try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "Python cannot make a virtual environment; type: apt-get install python3-venv"; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python \
	  --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'import open3d' 2>/dev/null || $(MAKE) --no-print-directory debian
	@$(BIN)/python -m stages._kernels >/dev/null
	@touch $@

# Open3D's wheel needs a few system libraries that it does not bring.
.PHONY: debian
debian:
	@if [ "$$(id -u)" = 0 ]; then s=; elif sudo -n true 2>/dev/null; then s=sudo; else \
	  echo "some system libraries are missing; type:  sudo apt-get install $(DEBIAN)"; exit 2; fi; \
	command -v apt-get >/dev/null || \
	  { echo "some system libraries are missing; install the counterparts of: $(DEBIAN)"; exit 2; }; \
	$$s apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive $$s apt-get install -y -qq --no-install-recommends $(DEBIAN) >/dev/null && \
	$(BIN)/python -c 'import open3d' || { echo "open3d still does not import; see above"; exit 2; }
