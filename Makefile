# Everything that people and CI do with opledger. `make run` and `make test`
# need nothing but Rust on a fresh Debian machine.
#
# OPLEDGER_KAFKA=host:port lets most tests use a broker that is there already.

# RocksDB and librdkafka take a quarter of an hour to compile, so the build's output
# is outside the checkout: a fresh clone, or `git clean`, does not lose it.
CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/opledger/target
export CARGO_TARGET_DIR

# Where `make run` keeps its data, and the address it serves. Not the program's own
# defaults, so that the tour of the README does not use the same data or port.
DATA ?= demo-data
LISTEN ?= 127.0.0.1:8480

# A Rust that was installed a moment ago is found before the next login.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

.DEFAULT_GOAL := help
.PHONY: help setup setup-tests env build run test soak lint \
	check-format check-clippy check-dependencies check-deploy check-counts accept-counts format try-queries \
	bench bench-quick bench-scale

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) \
		| while IFS="$$(printf '\t')" read -r name text; do printf '  make %-20s %s\n' "$$name" "$$text"; done
	@echo
	@echo '  settings: DATA=$(DATA) LISTEN=$(LISTEN)'
	@echo '            CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)'

run: build ## build, start a ledger with sample operations, stay until Ctrl-C
	@scripts/run '$(DATA)' '$(LISTEN)'

# More tests at once than there are cores: most wait for a disk, a broker or a browser.
export RUST_TEST_THREADS ?= $(shell expr 3 '*' "$$(nproc)")

test: setup-tests ## run all tests, and check that they ran the program that is installed
	cargo test --release --locked
	@scripts/check-program

soak: setup-tests ## run the same tests with long counts (hours)
	SOAK=1 cargo test --release --locked

build: setup ## build bin/opledger
	cargo build --release --locked
	@install -D -m 755 '$(CARGO_TARGET_DIR)/release/opledger' bin/opledger

bench: setup-tests ## measure it beside Kafka Streams, PostgreSQL and the bare clients (half an hour)
	@bench/run

bench-quick: setup-tests ## the same in five minutes: does all of it work, and about how fast
	@bench/run --quick

bench-scale: setup-tests ## measure ten million operations: memory, disk, restarts, reads (a quarter of an hour)
	@bench/run --scale

lint: check-format check-clippy check-dependencies check-deploy ## check format, clippy's advice, dependencies, deployment

need = @cargo $(1) --version >/dev/null 2>&1 \
	|| { echo 'cargo $(1) is missing: rustup component add $(2)' >&2; exit 1; }

check-format: setup ## check the format
	$(call need,fmt,rustfmt)
	cargo fmt --check

# In the profile of the tests: in another one the C++ would be built once more.
check-clippy: setup ## check clippy's advice
	$(call need,clippy,clippy)
	cargo clippy --release --all-targets --locked -- -D warnings

check-dependencies: setup ## check licences, bans, sources and advisories
	@scripts/check-dependencies

check-counts: setup ## count the instructions of the hot paths, compare with bench/counts.json
	@scripts/setup-counts
	cargo run --release --locked --quiet --example count

accept-counts: setup ## count them, and record what was counted
	@scripts/setup-counts
	cargo run --release --locked --quiet --example count -- --accept

try-queries: build setup-tests ## run the dashboard and the alerts against a broker, a ledger and a Prometheus
	@deploy/try-queries

check-deploy: ## check the Dockerfile, the compose files and deploy/
	@scripts/check-deploy

format: setup ## format the code
	$(call need,fmt,rustfmt)
	cargo fmt

setup: ## install what the build needs, check for Rust
	@scripts/setup

setup-tests: setup ## install what the tests need: a Kafka broker's jars, clients in three languages
	@scripts/setup-tests

env: ## print the environment, for cargo by hand: eval "$(make env)"
	@echo "export CARGO_TARGET_DIR='$(CARGO_TARGET_DIR)'"
