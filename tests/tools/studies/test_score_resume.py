"""A run of `prunella score` that is killed and continued has each row once, and the check sees one that is not."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
from bundles import make_tiny_bundle

from tools.studies.score_resume import check_rows

ROOT = Path(__file__).resolve().parents[3]


def test_a_killed_run_is_continued_and_each_row_is_there_once(tmp_path):
    bundle = make_tiny_bundle(tmp_path / "store")
    phrases = tmp_path / "phrases.jsonl"
    phrases.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("good film", "dull plot", "a film")))
    command = [sys.executable, "-m", "tools.studies.score_resume", str(bundle), str(phrases), "--rows", "3000"]
    command += ["--chunk-rows", "100", "--kills", "1"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert (result["there"], result["distinct"], result["misplaced"], result["errors"]) == (3000, 3000, 0, 0)
    assert result["success_file"]
    assert all(15 <= parts <= 30 for parts in result["killed_at_parts"])


def test_rows_that_are_missing_twice_there_or_in_another_order_are_counted(tmp_path):
    def write(name, ids, error=None):
        columns = {"id": ids, "label": ["a"] * len(ids), "error": [error] * len(ids)}
        schema = pyarrow.schema({"id": pyarrow.int64(), "label": pyarrow.string(), "error": pyarrow.string()})
        pyarrow.parquet.write_table(pyarrow.table(columns, schema), tmp_path / name)

    write("part-0.parquet", [0, 1])
    write("part-1.parquet", [2, 3])
    assert check_rows(tmp_path, 4) == {"there": 4, "distinct": 4, "misplaced": 0, "errors": 0}
    write("part-1.parquet", [1, 2], "too long")
    assert check_rows(tmp_path, 4) == {"there": 4, "distinct": 3, "misplaced": 2, "errors": 2}
