"""The engine on a real Spark of two threads in a real JVM."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scoring import TEXTS, contents, score, write_lines

from models.errors import CheckError, InputError
from prunella.bulk import score_files as bulk_run
from prunella.bulk.score_files import ScoreOptions
from prunella.bulk.scorer import Scorer

pyspark = pytest.importorskip("pyspark", reason="PySpark is not installed: pip install 'prunella[spark]'")
pytest_plugins = ["serving"]
MANY = [f"{TEXTS[i % 10]} {TEXTS[i // 10 % 10]}" for i in range(100)]
needs_java = pytest.mark.skipif(
    shutil.which("java") is None, reason="there is no Java: apt-get install openjdk-17-jre-headless"
)


@pytest.fixture(scope="module", autouse=True)
def _this_python():
    """The Python of the tests, not the first of PATH, for sessions that the tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        yield


@pytest.fixture(scope="module")
def spark():
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    session = builder.config("spark.sql.shuffle.partitions", 2).getOrCreate()
    yield session
    session.stop()


@needs_java
def test_parts_are_those_of_the_local_engine(spark, tiny_bundle, tmp_path, monkeypatch):
    path = write_lines(tmp_path / "in.jsonl", MANY)
    with monkeypatch.context() as patch:
        score(patch, tiny_bundle, path, tmp_path / "local", chunk_rows=30)
    summary = bulk_run.score(str(tiny_bundle), path, tmp_path / "spark", ScoreOptions(engine="spark", chunk_rows=30))
    assert (summary["rows"], summary["workers"]) == (100, 2)
    assert contents(tmp_path / "spark") == contents(tmp_path / "local")


@needs_java
def test_the_command_needs_no_activated_environment(tiny_bundle, tmp_path, monkeypatch):
    path = write_lines(tmp_path / "in.jsonl", MANY)
    score(monkeypatch, tiny_bundle, path, tmp_path / "local", chunk_rows=30)
    java = Path(shutil.which("java")).parent
    environment = {key: value for key, value in os.environ.items() if key != "PYSPARK_PYTHON"}
    command = [sys.executable, "-m", "prunella", "score", tiny_bundle, path, tmp_path / "out", "--engine", "spark"]
    done = subprocess.run(
        [*map(str, command), "--chunk-rows", "30", "--processes", "1"],
        capture_output=True, text=True, env=environment | {"PATH": f"/usr/bin:/bin:{java}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["workers"] == 1
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


@needs_java
def test_executors_without_prunella_are_named(spark, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(spark.sparkContext, "pythonExec", "/usr/bin/python3")
    monkeypatch.setitem(spark.sparkContext.environment, "PYTHONPATH", "")
    path = write_lines(tmp_path / "in.jsonl")
    with pytest.raises(CheckError, match=r"ModuleNotFoundError: .*; the Python of the executors needs Prunella"):
        bulk_run.score(str(tiny_bundle), path, tmp_path / "out", ScoreOptions(engine="spark"))


@needs_java
def test_a_column_is_classified_to_the_same_bits(spark, tiny_bundle):
    from pyspark.sql.functions import col

    from prunella.spark import classify

    texts = [*MANY, None, ""]
    frame = spark.createDataFrame([(i, text) for i, text in enumerate(texts)], "n int, text string").repartition(3)
    answer = classify(tiny_bundle, scores=True)(col("text"))
    rows = sorted(frame.withColumn("answer", answer).collect(), key=lambda row: row["n"])
    expected = Scorer(tiny_bundle)(texts)
    answers = [row["answer"] for row in rows]
    assert [(one["label"], one["score"], one["error"]) for one in answers] == [
        (one.label, one.score, one.error) for one in expected
    ]
    assert {one["label"]: one["score"] for one in answers[0]["scores"]} == {
        one["label"]: one["score"] for one in expected[0].scores
    }
    assert answers[-2]["error"] == "the text is null"


@needs_java
def test_a_model_of_pairs_takes_two_columns(spark, pair_bundle):
    from pyspark.sql.functions import col, lit

    from prunella.spark import classify

    frame = spark.createDataFrame([(text,) for text in TEXTS], "text string").coalesce(1)
    rows = frame.select(classify(pair_bundle)(col("text"), lit("good")).alias("a")).collect()
    expected = Scorer(pair_bundle)(TEXTS, ["good"] * len(TEXTS))
    assert [row["a"]["score"] for row in rows] == [one.score for one in expected]


def test_without_java_the_message_says_what_to_install(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    path = write_lines(tmp_path / "in.jsonl")
    with pytest.raises(InputError, match="needs Java"):
        bulk_run.score(str(tiny_bundle), path, tmp_path / "out", ScoreOptions(engine="spark"))
