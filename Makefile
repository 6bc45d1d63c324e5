# Every target sets up what it needs by itself: see scripts/setup.sh.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup check format test acceptance bench demo images lock clean use-setup check-setup develop-setup accept-setup bench-setup soak soak-setup

# Odd shells: these would change what the environment's Python does or finds.
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME VIRTUAL_ENV
export PYTHON

PY := .venv/bin/python
SOURCES := opengallery tests scripts $(wildcard bench)
BOOT_IMAGE := .cache/boot.raw
BENCH_IMAGES := deb12-v1 deb12-v1-rebuild deb12-v2
# make test TESTS=tests/arm ARGS="-k paging" runs a part of them.
TESTS ?=

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(BOOT_IMAGE)  ## Set up what is missing: .venv, Debian packages, the boot image
	@echo "Set up. The command is .venv/bin/gallery"

check: check-setup  ## Check format, lint, types, import layers and the project's own rules
	.venv/bin/ruff format --check $(SOURCES)
	.venv/bin/ruff check $(SOURCES)
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PY) -m pytest tests/test_project.py tests/test_settings_documented.py

format: check-setup  ## Format the code and mend what ruff can mend
	.venv/bin/ruff format $(SOURCES)
	.venv/bin/ruff check --fix $(SOURCES)

test: develop-setup $(BOOT_IMAGE)  ## Run the tests
	$(if $(TESTS),$(PY) -m pytest $(TESTS),scripts/run-tests.sh) $(ARGS)

soak: soak-setup  ## Break the image store for an hour: kills, damage, power cuts, real S3 and Azure servers
	SOAK=1 $(PY) -m pytest tests/imagestore --timeout 7200 -rs $(ARGS)

acceptance: accept-setup $(BOOT_IMAGE)  ## Run the announcement with the real az and check every answer
	$(PY) -m pytest tests/acceptance -v $(ARGS)

bench: bench-setup $(BOOT_IMAGE) images  ## Measure: publishing real images, boot storms, command start, server start
	$(PY) bench/run.py $(ARGS)

demo: $(BOOT_IMAGE)  ## Run the announcement end to end against a fresh server
	$(PY) scripts/demo.py $(ARGS)

images: bench-setup  ## Build the large images of the benchmarks (root, some minutes, once)
	$(if $(filter-out 0,$(shell id -u)),sudo) scripts/build-images.sh .cache/images $(BENCH_IMAGES)

lock: check-setup  ## Write the locks anew; make lock UPGRADE=--upgrade takes newer versions
	$(COMPILE) -o requirements/users.txt pyproject.toml requirements/build.in
	$(COMPILE) -o requirements/development.txt --group dev -c requirements/users.txt pyproject.toml requirements/build.in
	$(COMPILE) -o requirements/az.txt requirements/az.in
	$(COMPILE) -o requirements/uv.txt requirements/uv.in

clean:  ## Remove what was built here (not the Debian packages)
	rm -rf .venv .venv-az .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find opengallery tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# A lock with hashes, for all platforms, that names neither a registry's host nor a path of this machine.
COMPILE = .venv/bin/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --universal \
	--python-version 3.11 $(UPGRADE)

# Made once; made anew when its recipe changes.
$(BOOT_IMAGE): scripts/build-boot-image.sh | use-setup
	rm -f $@ $@.payload
	scripts/build-boot-image.sh $@

use-setup: ; @scripts/setup.sh use
check-setup: ; @scripts/setup.sh check
develop-setup: ; @scripts/setup.sh develop
accept-setup: ; @scripts/setup.sh accept
bench-setup: ; @scripts/setup.sh bench
soak-setup: ; @scripts/setup.sh soak
