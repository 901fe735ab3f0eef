"""The table of alternatives: a row for each method of each archived run, ours first."""

import json

from tools.tables.alternatives import alternatives_table

RUN = {
    "train_rows": 7041, "test_rows": 2000, "machine": {"processor": "A processor", "load_average": 3.14},
    "methods": {
        "tfidf": {
            "accuracy": 0.8, "bytes": 1_500_000, "p50_ms": 0.234, "train_seconds": 2.4,
            "versions": {"scikit-learn": "1.2"},
        },
        "prunella": {"accuracy": 0.9, "bytes": 12_000_000, "p50_ms": 0.5},
    },
}  # fmt: skip


def test_each_method_is_a_row_and_the_sentence_says_what_was_measured(tmp_path):
    (tmp_path / "films.json").write_text(json.dumps(RUN))
    lines = alternatives_table(tmp_path).splitlines()
    assert lines[0].startswith("`films`: 7,041 rows to train on, 2,000 rows for the accuracy. A processor")
    assert "load average 3.1" in lines[0]
    assert "scikit-learn 1.2" in lines[0]
    assert lines[4] == "| **Prunella** | 90.0% | 0.50 | 12.0 | not counted |"
    assert lines[5] == "| TF-IDF, logistic regression | 80.0% | 0.23 | 1.5 | 2 |"
