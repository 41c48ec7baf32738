# The verbs of this project. What is missing on the machine is installed first, and said.

PYTHON_FILES := .
BIN := .venv/bin
PYTEST_ARGS ?=
# Where nothing is kept, each process of the tests compiles all that it imports once more.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test bench chaos soak matrix kill9 lint docs reference format check dist deb lock mistakes venv clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## two sites and a hub on this machine, writes on every side (20 s; more the first time); KEEP=1 leaves them running
	@scripts/install-packages demo
	@scripts/venv demo
	@scripts/unpacked $(BIN)/python -m testbed.$(if $(KEEP),keeping $(KEEP:1=demo),demo $(DEMO_ARGS))

test: ## every test, against real servers; PYTEST_ARGS='-k demo -x' for some
	@scripts/install-packages test
	@scripts/venv
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

chaos: ## faults at random while all sides write, for SECONDS=600; SEED=n plays a failing run again; SITES=events, groups or large
	@scripts/install-packages test
	@scripts/venv
	REDISREPL_CHAOS_SECONDS=$(or $(SECONDS),600) REDISREPL_CHAOS_SEED=$(or $(SEED),0) \
		$(BIN)/python -m pytest tests/chaos -k "everything_at_once and $(or $(SITES),streams)" -s

soak: ## whether anything grows in MINUTES=30 (FAULTS=1: with faults); writes its numbers into docs/reliability.md
	@scripts/install-packages test
	@scripts/venv
	$(BIN)/python -m tests.chaos.soak --minutes $(or $(MINUTES),30) --seed $(or $(SEED),0) $(if $(FAULTS),--faults) \
		$(if $(OUT),--out $(OUT)) --report docs/reliability.md

matrix: ## every server that users have, into docs/compatibility.md; ONLY=redis-8.6,valkey-9.1 for some, LIST=1 says which
	@scripts/install-packages test
	@scripts/venv
	$(BIN)/python -m matrix $(if $(ONLY),--only $(ONLY)) $(if $(ROLE),--role $(ROLE)) $(if $(SEED),--seed $(SEED)) \
		$(if $(CASE),--case "$(CASE)") \
		$(if $(QUICK),--quick) $(if $(LIST),--list) $(if $(AGAINST),--against $(AGAINST))

kill9: ## kill -9 amid writes, over and over: HUB=redis-7.2 SITE=redis-installed RUNS=100 MINUTES=20 SEED=n
	@scripts/install-packages test
	@scripts/venv
	$(BIN)/python -m matrix.unexplained --hub $(or $(HUB),redis-7.2) --site $(or $(SITE),redis-installed) \
		--runs $(or $(RUNS),100) --minutes $(or $(MINUTES),20) $(if $(SEED),--seed $(SEED))

bench: ## every goal beside Redis' own replication, into docs/performance.md; BENCH_ARGS=--quick for a look
	@scripts/install-packages bench
	@scripts/venv
	$(BIN)/python -m benchmarks.replication $(BENCH_ARGS)

lint: docs ## ruff, mypy, and the documentation site
	$(BIN)/ruff check $(PYTHON_FILES)
	$(BIN)/ruff format --check $(PYTHON_FILES)
	$(BIN)/mypy

docs: ## site/: the documentation, strictly: a page or heading that a link misses is an error
	@scripts/venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: ## put the code into the one shape
	@scripts/venv
	$(BIN)/ruff check --fix --exit-zero $(PYTHON_FILES)
	$(BIN)/ruff format $(PYTHON_FILES)

check: lint test ## what has to pass before a change goes in

dist: ## dist/: sdist, wheel, one-file redisrepl.pyz, SBOM, checksums; the same bytes each time
	@scripts/venv
	$(BIN)/python -m release.dist $(DIST_ARGS)

deb: ## dist/redisrepl_VERSION_ARCH.deb, for Debian 12 and later
	@scripts/install-packages deb
	@scripts/venv
	$(BIN)/python -m release.deb
	lintian --fail-on error,warning dist/redisrepl_*.deb

lock: ## the newest dependencies that fit, with their hashes, into release/requirements.txt
	@scripts/venv
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade \
		--generate-hashes --output-file release/requirements.txt pyproject.toml
	printf 'hatchling\nshtab\n' | UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal \
		--python-version 3.11 --upgrade --generate-hashes --no-annotate --output-file release/build-requirements.txt -

reference: ## docs/reference.md: every command and setting, from the program
	@scripts/venv
	$(BIN)/python -m release.reference

mistakes: ## docs/mistakes.md: what is said of wrong command lines
	@scripts/venv
	$(BIN)/python -m tests.mistakes </dev/null

venv: ## .venv with this project and its tools
	@scripts/venv

clean: ## remove what the other verbs made
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .programs dist build site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
