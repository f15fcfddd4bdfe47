# The one list of what people do here. `make help` prints it.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/stamps
UV     := $(BIN)/uv --quiet
# The extension is built for Rust's sake only: everything else of the package is read from python/ as it is.
RUST   := Cargo.toml Cargo.lock rust-toolchain.toml pyproject.toml \
          $(shell find rust \( -name target -o -name fuzz \) -prune -o \( -name '*.rs' -o -name Cargo.toml \) -print)
# Fuzzers and sanitizers need a compiler's unstable options, which RUSTC_BOOTSTRAP=1 opens in a stable one too.
FUZZ         := rust/core/fuzz
FUZZ_TARGETS := $(basename $(notdir $(wildcard $(FUZZ)/fuzz_targets/*.rs)))
SECONDS_EACH ?= 60
# Extras of pyproject.toml.
FRAMEWORKS   := chroma fastembed haystack lancedb langchain llama-index openai
ISSUE_FORMS  := $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
HOST         = $(shell rustc -vV | sed -n 's/^host: //p')
# Tests read nothing from a network, and say so to the libraries that would try.
OFFLINE := HF_HUB_OFFLINE=1 LITELLM_LOCAL_MODEL_COST_MAP=True HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1

# Two processes run the tests, each a whole file. PyTorch takes one core in each, or they wait for each other.
IN_TWO := --numprocesses 2 --dist loadfile --no-loadscope-reorder
TEST_THREADS := OMP_NUM_THREADS=1

export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Another environment's interpreter must not leak into the build of the extension.
unexport PYTHONHOME PYTHONPATH CONDA_PREFIX
# Or each of the many processes of the tests would compile what it imports.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: help demo test test-fast test-versions test-pylate test-adapters test-adapters-oldest adapters-table test-scale test-core test-python lint lint-rust lint-python check-core bench instructions crash long requirements docs readers build fuzz sanitize clean \
        wheel wheel-build third-party release-check lint-project publish programs

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

demo: build ## evaluate a real model on real text: without the cache, with it cold, with it warm
	@$(BIN)/python -m dejavec demo $(ARGS)

test: ## all tests: the Rust core's, while packages are installed, then the package's
	$(MAKE) --jobs 2 test-core build readers
	$(MAKE) test-python

test-core:
	cargo test --package dejavec-core --lib --test all

test-python: build readers
	$(OFFLINE) $(TEST_THREADS) $(BIN)/python -m pytest $(or $(ARGS),$(IN_TWO))

test-fast: build ## something of every room in under two minutes, without a model
	cargo test --quiet --package dejavec-core --lib
	$(OFFLINE) $(TEST_THREADS) $(BIN)/python -m pytest -q $(IN_TWO) -m "not slow" $(ARGS)

lint: lint-rust lint-python lint-project ## formatting, clippy, rustdoc, ruff, mypy, stubs, licences, metadata, workflows

lint-rust: | $(STAMPS)/packages
	cargo fmt --all --check
	PYO3_PYTHON=$(CURDIR)/$(BIN)/python cargo clippy --workspace --all-targets -- -D warnings
	PYO3_PYTHON=$(CURDIR)/$(BIN)/python RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

lint-python: build
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --allowlist .ci/stubtest-allowlist --ignore-unused-allowlist dejavec._core

# What is neither Rust nor Python. All of it works without a network.
lint-project: | $(STAMPS)/packages
	$(BIN)/python release/components.py --check
	$(BIN)/python release/check.py
	$(BIN)/validate-pyproject pyproject.toml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms $(ISSUE_FORMS)
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/zizmor --quiet --offline --min-severity medium .github/workflows

check-core: ## the Rust core alone, without Python: formatting, clippy, tests
	cargo fmt --all --check
	cargo clippy --package dejavec-core --all-targets -- -D warnings
	$(MAKE) test-core

bench: build $(STAMPS)/peers $(STAMPS)/scale ## compare with other caches and the machine itself; SMALL=1: minutes, else most of an hour
	cargo build --quiet --release --package dejavec-core --example sha256_floor
	$(OFFLINE) $(BIN)/python -m benches $(if $(SMALL),--small) $(ARGS)

instructions: | $(STAMPS)/venv ## count the instructions of the core's hot loops (valgrind); RECORD=1 puts them on record
	cargo build --quiet --release --package dejavec-core --example instructions
	$(BIN)/python benches/instructions.py $(if $(RECORD),--record)

crash: build ## kill N processes (default 10000) that write and read one cache, and check what they leave
	$(BIN)/python tests/reliability/kills.py $(or $(N),10000)

long: build ## write, verify and read back ten million rows with several processes (minutes, 3 GB of memory)
	$(BIN)/python tests/reliability/long_run.py $(N)

test-versions: build ## evaluate under older versions of mteb and sentence-transformers, each in an environment of its own
	UV="$(UV)" PYTHON=$(BIN)/python OFFLINE="$(OFFLINE)" bash tests/identity/other_versions.bash

test-pylate: build $(STAMPS)/pylate ## a real PyLate model through mteb, in an environment of its own
	$(OFFLINE) $(TEST_THREADS) PYTHONPATH=$(CURDIR)/python $(VENV)/pylate/bin/python -m pytest -q \
	  --config-file tests/mteb/pylate/pytest.ini tests/mteb/pylate $(ARGS)

test-adapters: build $(STAMPS)/adapters ## the classes of other frameworks with cached vectors, in an environment of their own
	$(OFFLINE) $(TEST_THREADS) PYTHONPATH=$(CURDIR)/python $(VENV)/adapters/bin/python -m pytest -q \
	  --config-file tests/adapters/frameworks/pytest.ini tests/adapters/frameworks $(ARGS)

test-scale: build $(STAMPS)/scale ## sharing over S3, and a cluster of Ray that fills a store: servers and nodes on this machine, in an environment of its own
	$(OFFLINE) $(TEST_THREADS) PYTHONPATH=$(CURDIR)/python $(VENV)/scale/bin/python -m pytest -q \
	  --config-file tests/remote/scale/pytest.ini tests/remote/scale $(ARGS)

test-adapters-oldest: build $(STAMPS)/adapters-oldest ## the adapters again, with the oldest versions that the extras of pyproject.toml allow
	$(OFFLINE) $(TEST_THREADS) PYTHONPATH=$(CURDIR)/python $(VENV)/adapters-oldest/bin/python -m pytest -q \
	  --config-file tests/adapters/frameworks/pytest.ini tests/adapters/frameworks -k "not recipes" $(ARGS)

adapters-table: build ## write the table in the README of what each adapter promises, from the results of its tests
	$(OFFLINE) $(TEST_THREADS) WRITE_TABLE=1 $(BIN)/python -m pytest -q tests/adapters/test_conformance.py
	WRITE_TABLE=1 $(MAKE) test-adapters ARGS="-k conformance"

requirements: $(STAMPS)/venv ## write requirements.txt anew from requirements.in
	$(UV) pip compile --universal --python-version 3.11 requirements.in -o requirements.txt
	$(UV) pip compile --universal --python-version 3.11 benches/requirements.in -o benches/requirements.txt
	$(UV) pip compile --universal --python-version 3.11 docs/requirements.in -o docs/requirements.txt
	$(UV) pip compile --universal --python-version 3.11 tests/commands/readers/requirements.in -o tests/commands/readers/requirements.txt
	$(UV) pip compile --universal --python-version 3.11 tests/mteb/pylate/requirements.in -o tests/mteb/pylate/requirements.txt
	$(UV) pip compile --universal --python-version 3.11 tests/adapters/frameworks/requirements.in -o tests/adapters/frameworks/requirements.txt
	$(UV) pip compile --universal --python-version 3.11 tests/remote/scale/requirements.in -o tests/remote/scale/requirements.txt
	$(UV) pip compile --universal --python-version 3.11 --resolution lowest-direct $(addprefix --extra ,$(FRAMEWORKS)) \
	  pyproject.toml tests/adapters/frameworks/oldest.in -o tests/adapters/frameworks/oldest.txt
	$(UV) pip compile --universal --python-version 3.11 release/requirements.in -o release/requirements.txt

docs: build $(STAMPS)/docs ## the site, into target/site
	$(BIN)/python docs/command_line.py
	NO_MKDOCS_2_WARNING=1 $(VENV)/docs/bin/mkdocs build --quiet

readers: $(STAMPS)/readers ## other programs that read our files, in an environment of their own, for a test

wheel: wheel-build ## wheels, a source distribution and a bill of materials into dist/, audited and tried in empty environments
	UV="$(CURDIR)/$(UV)" $(OFFLINE) $(TEST_THREADS) $(VENV)/release/bin/python -m pytest --config-file release/pytest.ini -rAs release $(ARGS)

wheel-build: $(STAMPS)/release
	$(VENV)/release/bin/python release/build.py

release-check: ## what a release needs, as far as a program can see it; RELEASE.md has the rest
	$(MAKE) lint
	$(BIN)/python release/check.py --release
	cargo test --package dejavec-core --test all compatibility::
	$(MAKE) docs
	$(MAKE) test-python ARGS=tests/commands/test_docs.py
	$(MAKE) wheel

publish: $(STAMPS)/venv ## upload dist/ from the public host, which proves who it is; ARGS=--dry-run uploads nothing
	$(UV) publish --trusted-publishing $(if $(findstring --dry-run,$(ARGS)),never,always) $(ARGS) dist/*.whl dist/*.tar.gz

programs: ## install what tests need from the system: FFmpeg, and strace on Linux
	bash .ci/programs

third-party: ## write THIRD-PARTY.txt anew, after a change to Cargo.lock
	$(PYTHON) release/components.py

build: $(STAMPS)/extension ## .venv with every package and the release extension

fuzz: $(STAMPS)/cargo-fuzz $(STAMPS)/atheris build ## every parser, and whole directories, with mutated bytes; SECONDS_EACH=60
	mkdir -p $(FUZZ)/corpus && cd $(FUZZ)/corpus && mkdir -p $(FUZZ_TARGETS)
	cd rust/core && for target in $(FUZZ_TARGETS); do \
	  PATH=$(CURDIR)/$(BIN):$$PATH RUSTC_BOOTSTRAP=1 cargo fuzz run --target-dir $(CURDIR)/target/fuzz $$target \
	    fuzz/corpus/$$target fuzz/seeds/$$target -- -max_total_time=$(SECONDS_EACH) || exit; \
	done
	$(BIN)/python tests/reliability/fuzz_import.py $(FUZZ)/corpus/import -max_total_time=$(SECONDS_EACH) -rss_limit_mb=1024 -timeout=10

sanitize: ## the core's tests under AddressSanitizer
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address \
	  cargo test --package dejavec-core --tests --target $(HOST) --target-dir target/sanitize $(ARGS)

clean: ## remove what make made, except demo-cache
	rm -rf $(VENV) target dist python/dejavec/_core*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find python tests benches release -name __pycache__ -prune -exec rm -rf {} +

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	sys.exit(v < (3, 11) and f"dejavec needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^uv==' requirements.txt)"
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/packages: requirements.txt $(STAMPS)/venv
	$(UV) pip install --requirements requirements.txt
	@touch $@

$(STAMPS)/readers: tests/commands/readers/requirements.txt | $(STAMPS)/venv
	$(UV) venv --allow-existing --python $(BIN)/python $(VENV)/readers
	$(UV) pip install --python $(VENV)/readers/bin/python --requirements tests/commands/readers/requirements.txt
	@touch $@

$(STAMPS)/pylate: tests/mteb/pylate/requirements.txt | $(STAMPS)/venv
	$(UV) venv --allow-existing --python $(BIN)/python $(VENV)/pylate
	$(UV) pip install --python $(VENV)/pylate/bin/python --requirements tests/mteb/pylate/requirements.txt
	@touch $@

$(STAMPS)/adapters: tests/adapters/frameworks/requirements.txt | $(STAMPS)/venv
	$(UV) venv --allow-existing --python $(BIN)/python $(VENV)/adapters
	$(UV) pip install --python $(VENV)/adapters/bin/python --requirements tests/adapters/frameworks/requirements.txt
	@touch $@

$(STAMPS)/adapters-oldest: tests/adapters/frameworks/oldest.txt | $(STAMPS)/venv
	$(UV) venv --allow-existing --python $(BIN)/python $(VENV)/adapters-oldest
	$(UV) pip install --python $(VENV)/adapters-oldest/bin/python --requirements tests/adapters/frameworks/oldest.txt
	@touch $@

$(STAMPS)/docs: docs/requirements.txt | $(STAMPS)/venv
	$(UV) venv --allow-existing --python $(BIN)/python $(VENV)/docs
	$(UV) pip install --python $(VENV)/docs/bin/python --requirements docs/requirements.txt
	@touch $@

$(BIN)/s3s-fs: | $(STAMPS)/venv
	cargo install --quiet --locked --root $(VENV) s3s-fs@0.14.1 --features binary

$(STAMPS)/scale: tests/remote/scale/requirements.txt | $(STAMPS)/venv $(BIN)/s3s-fs
	$(UV) venv --allow-existing --python $(BIN)/python $(VENV)/scale
	$(UV) pip install --python $(VENV)/scale/bin/python --requirements tests/remote/scale/requirements.txt
	@touch $@

$(STAMPS)/release: release/requirements.txt | $(STAMPS)/venv
	$(UV) venv --allow-existing --python $(BIN)/python $(VENV)/release
	$(UV) pip install --python $(VENV)/release/bin/python --requirements release/requirements.txt
	@touch $@

$(STAMPS)/atheris: | $(STAMPS)/packages
	$(UV) pip install atheris==3.0.0
	@touch $@

$(STAMPS)/cargo-fuzz: | $(STAMPS)/venv
	cargo install --quiet --locked --root $(VENV) cargo-fuzz@0.13.2
	@touch $@

$(STAMPS)/peers: benches/requirements.txt $(STAMPS)/packages
	$(UV) pip install --requirements benches/requirements.txt
	@touch $@

$(STAMPS)/extension: $(RUST) $(STAMPS)/packages
	@command -v cargo >/dev/null || { echo "dejavec is built with cargo (Rust), which is not on the PATH." >&2; exit 1; }
	$(BIN)/maturin develop --release --uv --quiet
	@touch $@
