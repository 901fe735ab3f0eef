"""Each row of the table in docs/models.md, made from a tiny random model that transformers itself saved."""

import json
from pathlib import Path

import pytest

from tools.studies.families import FIFTH, FOLDERS, INSTALLED, measure
from tools.tables.families import families_table

ARCHIVED = Path(__file__).resolve().parents[3] / "docs" / "results" / "models" / "families.json"
ROWS = {(row["family"], row["tokenizer"], row["writer"]): row for row in json.loads(ARCHIVED.read_text())["rows"]}


@pytest.mark.parametrize("form", FOLDERS, ids=lambda form: f"{form.family}, {form.tokenizer}, {form.writer}")
def test_a_folder_answers_as_transformers_and_the_page_says_so(tmp_path, form):
    row = measure(form, tmp_path, timed=False)
    assert row["opens"], row
    assert row["difference"] < 1e-4
    assert row["onnx_difference"] < 1e-4
    writer = "transformers 4.57" if form.writer == INSTALLED else FIFTH  # the page is of the pinned version
    archived = ROWS[form.name, form.tokenizer, writer]
    assert (archived["opens"], archived["prunable"]) == (row["opens"], row["prunable"])


def test_the_page_has_no_other_rows():
    assert len(ROWS) == len(FOLDERS)


def test_a_folder_that_is_refused_is_in_the_table_with_the_reason(tmp_path):
    row = {"family": "F", "tokenizer": "T", "writer": "W"}
    good = row | {"opens": True, "difference": 2e-7, "onnx_difference": 3e-6, "prunable": False}
    rows = [good | {"speedup": 2.26, "speedup_interval": [2.0, 2.5]}, row | {"opens": False, "problem": "too old"}]
    run = {"command": "c", "machine": {"processor": "p"}, "rows": rows}
    (tmp_path / "families.json").write_text(json.dumps(run))
    lines = families_table(tmp_path).splitlines()
    assert lines[2] == "| F | T | W | yes | 2e-07 | 3e-06 | 2.3x [2.0, 2.5] | no |"
    assert lines[3].startswith("| F | T | W | no: too old |")
    assert lines[-1] == "`c`, p."
