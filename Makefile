# Two commands do all the set-up: 'make demo' and 'make test'.  Everything is kept in .venv and .run.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
RUN_DIR ?= .run
PYTEST_ARGS ?=

.PHONY: demo run test quick lint docs samples clean help

help:
	@echo "make demo   install what is needed and show the main job, step by step"
	@echo "make run    the service in the foreground on the embedded default (Ctrl-C stops it)"
	@echo "make test   install what is needed, lint, and run all the tests"
	@echo "make quick  lint and the quick tests only"
	@echo "make docs   the documentation, in doc/build/html, and its pages that come from the code"
	@echo "make samples  etc/*.sample, from the code"
	@echo "make clean  remove $(VENV), what was built, and $(RUN_DIR) with its volumes (detach them first: exporters go on)"

$(VENV)/.runtime: pyproject.toml constraints.txt tools/bootstrap.sh
	@tools/bootstrap.sh runtime
	@echo "installing Python packages into $(VENV); this takes a minute"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . python-cinderclient
	@touch $@

$(VENV)/.test: $(VENV)/.runtime
	@tools/bootstrap.sh test
	@echo "installing what the tests need into $(VENV); this takes a minute or two"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,basic-auth,s3]'
	@touch $@

demo: $(VENV)/.runtime
	@$(BIN)/python tools/demo.py

run: $(VENV)/.runtime
	@tools/run.sh $(RUN_DIR) $(BIN)

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(PYTEST_ARGS)

quick: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow" $(PYTEST_ARGS)

docs: $(VENV)/.test
	$(BIN)/python tools/generate_docs.py
	$(BIN)/sphinx-build -W -q -b html doc/source doc/build/html

samples: $(VENV)/.test
	$(BIN)/python tools/generate_samples.py

clean:
	rm -rf $(VENV) $(RUN_DIR) doc/build build *.egg-info
