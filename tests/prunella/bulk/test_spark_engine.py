"""The engine on a real Spark of two threads in a real JVM."""

import shutil

import pytest
from scoring import TEXTS, contents, score, write_lines

from models.errors import InputError
from prunella.bulk import score_files as bulk_run
from prunella.bulk.score_files import ScoreOptions
from prunella.bulk.scorer import Scorer

pyspark = pytest.importorskip("pyspark", reason="PySpark is not installed: pip install 'prunella[spark]'")
pytest_plugins = ["serving"]
MANY = [f"{TEXTS[i % 10]} {TEXTS[i // 10 % 10]}" for i in range(100)]
needs_java = pytest.mark.skipif(
    shutil.which("java") is None, reason="there is no Java: apt-get install openjdk-17-jre-headless"
)


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
