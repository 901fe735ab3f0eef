# `make demo` and `make test` work on a machine that has Python 3.11 or later and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint loadtest test-container clean

demo: .venv/demo
	$(BIN)/prunella demo $(ARGS)

test: .venv/dev
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

loadtest: .venv/dev
	$(BIN)/python -m loadtests.run --url http://127.0.0.1:3000 --out out/loadtest

test-container: .venv/dev
	bash tests/container.sh

# a stamp file for each extra; torch goes first, because a looser request takes the CUDA build
.venv/demo .venv/dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt "$$(grep -E '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[$(notdir $@)]"
	touch $@

clean:
	rm -rf .venv store out
