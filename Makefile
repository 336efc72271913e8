# Two commands for a newcomer: `make demo` and `make test`. Both set everything up in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: help setup demo client test bench lock clean
help:            ## what can be made
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/secure-chat: requirements.lock requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

setup: $(BIN)/secure-chat ## the virtual environment with pinned dependencies

demo: setup      ## two wallets chat through a real server; then the ledger, the audit, the rewards
	$(BIN)/secure-chat demo

client:          ## build the web client, where Node is: served by `demo --keep` and `serve --with-client`
	@command -v npm > /dev/null || { echo "the web client needs Node 20.19 or newer with npm"; exit 1; }
	cd v13/ATLAS && npm ci --silent --no-audit --no-fund && npm run --silent build

test: setup      ## everything that can run on this machine (tox)
	$(BIN)/tox run

bench: setup     ## messages a second, as ratios to a bare relay in the same run
	$(BIN)/secure-chat bench

lock:            ## pin dependencies anew after editing pyproject.toml
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock

clean:           ## remove what was built
	rm -rf $(VENV) .tox v13/ATLAS/node_modules v13/ATLAS/dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
