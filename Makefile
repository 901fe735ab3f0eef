# `make demo` and `make test` work on a machine that has Python 3.11 or later and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-processors lint docs learn loadtest wheel test-container image-check requirements clean

demo: .venv/demo
	$(BIN)/prunella demo $(ARGS)

test: .venv/dev
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# tests whose numbers depend on how a processor multiplies; `make test` has run them with `auto` = fp32
NUMERIC := $(addprefix tests/,$(addsuffix .py,\
  compress/healing/test_teacher_cache models/train/test_training models/pretraining/test_pretrain models/finetuning/test_finetune compress/healing/test_healing compress/test_regression compress/test_multilabel))
INT8 := $(addprefix tests/,$(addsuffix .py,\
  compress/healing/test_teacher_cache models/train/test_training models/encoders/test_attention models/test_families models/pretraining/test_masked compress/pruning/test_refit compress/pruning/test_obs compress/healing/test_healing export/test_int8 compress/quantization/test_quantize compress/quantization/test_fp32_fallback))
OLD := PRUNELLA_HIDE_CPU_FLAGS="avx512_vnni avx_vnni amx_int8 avx512_bf16 amx_bf16" ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2

test-processors: .venv/dev
	PRUNELLA_AUTO_PRECISION=bf16 $(BIN)/python -m pytest --numprocesses auto --dist loadfile $(NUMERIC)
	$(OLD) $(BIN)/python -m pytest --numprocesses auto --dist loadfile $(INT8)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the pages of docs/ as a site in out/site; a page that is in no menu, or a broken link, is an error
docs: .venv/docs
	$(BIN)/python -m mkdocs build --strict

# all chapters of docs/learn, or those that ARGS names; LEARN_SIZE=small shows only that they work
learn: .venv/learn $(if $(filter small,$(LEARN_SIZE)),,.venv/chinese)
	$(BIN)/python -m tools.course.run $(ARGS)

loadtest: .venv/dev
	$(BIN)/python -m loadtests.loadtest --url http://127.0.0.1:3000 --out out/loadtest

wheel:
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	@echo "pip install --find-links dist 'prunella[train]'"

test-container: .venv/dev
	$(BIN)/python tests/container.py

image-check: .venv/dev
	$(BIN)/python deploy/image/check.py

# the packages of the image, with their hashes
requirements: .venv/dev
	$(BIN)/uv pip compile service/requirements.in --constraint constraints.txt --quiet --no-header --no-annotate \
		--python-version 3.11 --python-platform x86_64-unknown-linux-gnu --generate-hashes \
		--output-file service/requirements.txt

# a stamp file for each extra; torch goes first, because a looser request takes the CUDA build
.venv/demo .venv/dev .venv/learn .venv/chinese: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt "$$(grep -E '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[$(notdir $@)]"
	$(BIN)/prunella fetch
	touch $@

.venv/docs: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

clean:
	rm -rf .venv store out dist
