# make demo    a shop, start to finish, no server needed
# make test    every test, with the real Kafka and the real ClickHouse engine
# make test-serve-sql    `tributary serve-sql` and its tests: a feature that is built anew, with all of DataFusion
# make soak    the simulated world for as long as one likes: SIM_SEED is where it begins, SIM_SEEDS how many
# make fuzz    one fuzz target with coverage for as long as one likes: TARGET names it; needs nightly Rust and cargo-fuzz
# make check   what must hold before a commit: formatting, lints, unit tests; no servers
#
# demo and test share the build of nearly all dependencies: the dev profile, lightly optimised (see Cargo.toml). The first build takes minutes,
# later ones seconds.

CARGO ?= cargo
# Cargo.lock is part of the source: a build that would change it fails.
CARGO_FLAGS ?= --locked

.DEFAULT_GOAL := help
.PHONY: help demo test test-serve-sql soak fuzz check bench bench-identity bench-definitions release fmt

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 23

demo: ## a shop, start to finish, no server needed
	@tests/support/prerequisites demo
	$(CARGO) run $(CARGO_FLAGS) -- demo

test: ## every test; starts its own Kafka, ClickHouse and schema registry
	@tests/support/prerequisites test
	$(CARGO) test $(CARGO_FLAGS)

test-serve-sql: ## the feature serve-sql, which make test leaves out: it takes all of DataFusion, and a long build
	@tests/support/prerequisites test
	$(CARGO) test $(CARGO_FLAGS) --features serve-sql --test it -- other_tools

soak: SIM_SEED ?= 1000
soak: SIM_SEEDS ?= 10000000
soak: ## everything that can fail, seed after seed, until one does or it is stopped
	@tests/support/prerequisites demo
	SIM_SEED=$(SIM_SEED) SIM_SEEDS=$(SIM_SEEDS) $(CARGO) test $(CARGO_FLAGS) --test it sim::whatever -- --nocapture

fuzz: TARGET ?= definitions
fuzz: ## one fuzz target (TARGET=avro) until it fails or is stopped; needs nightly Rust and cargo-fuzz
	@rustc +nightly --version >/dev/null 2>&1 || { echo 'missing: nightly Rust (rustup toolchain install nightly)'; exit 3; }
	@cargo fuzz --version >/dev/null 2>&1 || { echo 'missing: cargo-fuzz (cargo install cargo-fuzz)'; exit 3; }
	cp Cargo.lock fuzz/Cargo.lock
	mkdir -p fuzz/found/$(TARGET)
	cargo +nightly fuzz run --dev -s none $(TARGET) fuzz/found/$(TARGET) fuzz/corpus/$(TARGET) -- \
		-timeout=20 -rss_limit_mb=2048 -max_len=16384

check: ## formatting, lints and unit tests; needs no server
	@tests/support/prerequisites demo
	$(CARGO) fmt --check
	$(CARGO) clippy $(CARGO_FLAGS) --all-targets -- -D warnings
	$(CARGO) test $(CARGO_FLAGS) --lib

bench: ## events per CPU-second beside a ladder of floors; optimised build
	@tests/support/prerequisites demo
	MIMALLOC_PURGE_DELAY=5000 $(CARGO) bench $(CARGO_FLAGS) --bench ladder

bench-identity: ## ten million identifiers: speed, memory, single merges; needs 4 GiB
	@tests/support/prerequisites demo
	MIMALLOC_PURGE_DELAY=5000 $(CARGO) bench $(CARGO_FLAGS) --bench identity

bench-definitions: ## what definitions, kinds of traits, timers and journeys cost
	@tests/support/prerequisites demo
	MIMALLOC_PURGE_DELAY=5000 $(CARGO) bench $(CARGO_FLAGS) --bench definitions

release: ## target/release/tributary, with object storage and TLS; needs perl for OpenSSL
	@tests/support/prerequisites demo
	@command -v perl >/dev/null || { echo 'missing: perl (apt-get install perl)'; exit 3; }
	$(CARGO) build $(CARGO_FLAGS) --release --features cloud,tls

fmt: ## format the code
	$(CARGO) fmt
