import csv
import decimal
import importlib.util
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import typer
from bundles import copy_with_note, make_tiny_bundle
from gates import add_gate
from scoring import TEXTS, lines_of, parts, score, table_of, write_lines
from verbs import run

from models.errors import FolderError, InputError
from models.store.lock import Lock
from models.tokenizer import Encoded
from prunella import Classifier
from prunella.bulk.scorer import SPREAD, Scorer, sorted_batches
from prunella.cli import main as cli

pytest_plugins = ["serving"]


def test_rows_keep_order_and_columns_and_the_answers_are_the_services_to_the_last_bit(
    tiny_bundle, tmp_path, monkeypatch
):
    texts = [" ".join(TEXTS[i % 10 : i % 10 + i % 4 + 1]) for i in range(50)]
    summary = score(
        monkeypatch,
        tiny_bundle,
        write_lines(tmp_path / "in.jsonl", texts),
        tmp_path / "out",
        scores=True,
        chunk_rows=16,
    )
    rows = lines_of(tmp_path / "out")
    assert [row["id"] for row in rows] == list(range(50))
    expected = Classifier(tiny_bundle)(texts)
    assert [(row["label"], row["score"]) for row in rows] == [(one.label, one.score) for one in expected]
    assert [{one["label"]: one["score"] for one in row["scores"]} for row in rows] == [one.scores for one in expected]
    assert {row["error"] for row in rows} == {None}
    assert {row["bundle"] for row in rows} == {summary["bundle"]}
    assert (summary["rows"], summary["errors"], summary["parts"]) == (50, 0, 4)
    assert json.loads((tmp_path / "out" / "_SUCCESS").read_text())["rows"] == 50


def test_a_bad_row_is_a_row_with_an_error(tiny_bundle, tmp_path, monkeypatch):
    lines = [
        '{"text": "good"}', '{"text": null}', "no json", '{"text": 5}', '{"text": " "}', "", "[1]", '{"t": 1}',
        r'{"text": "a \ud800 b"}', '{"text": ["good"]}', '{"text": "a\u2028b"}', '{"text": "good", "text": "bad"}',
        '{"text": "%s"}' % ("good " * 200),
    ]  # fmt: skip
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    score(monkeypatch, tiny_bundle, tmp_path / "in.jsonl", tmp_path / "out", truncate=False)
    rows = lines_of(tmp_path / "out")
    assert len(rows) == 12  # an empty line is no row
    assert [row["error"] is None for row in rows] == [True, *[False] * 8, True, False, False]
    words = [
        "null",
        "not valid JSON",
        "int",
        "empty",
        "list",
        "no 'text'",
        "surrogate",
        "list",
        "",
        "named",
        "tokens",
    ]
    for row, word in zip(rows[1:], words, strict=True):
        assert word in (row["error"] or "")
        assert row["error"] is None or row["label"] is None


def test_parquet_keeps_types_and_metadata(tiny_bundle, tmp_path, monkeypatch):
    table = pa.table(
        {
            "id": pa.array(range(10), pa.int16()),
            "text": pa.array(TEXTS).dictionary_encode(),
            "price": pa.array([decimal.Decimal("1.50")] * 10, pa.decimal128(9, 2)),
            "at": pa.array(np.arange(10), pa.timestamp("us", tz="UTC")),
            "nested": pa.array([{"a": [1, 2]}] * 9 + [None], pa.struct([("a", pa.list_(pa.int8()))])),
        },
        metadata={"owner": "tests"},
    )
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet", row_group_size=3)
    table = pyarrow.parquet.read_table(tmp_path / "in.parquet")
    score(monkeypatch, tiny_bundle, tmp_path / "in.parquet", tmp_path / "out", chunk_rows=4)
    output = table_of(tmp_path / "out")
    assert output.select(table.schema.names).to_pylist() == table.to_pylist()
    kept = output.schema.names[:5]
    assert [str(output.schema.field(n).type) for n in kept] == [str(table.schema.field(n).type) for n in kept]
    assert output.schema.metadata[b"owner"] == b"tests"
    assert output.schema.names[5:] == ["label", "score", "error", "bundle"]
    assert [pyarrow.parquet.read_metadata(part).num_rows for part in parts(tmp_path / "out")] == [4, 4, 2]


def test_hive_partitions_become_columns_and_their_order_is_that_of_the_names(tiny_bundle, tmp_path, monkeypatch):
    for number, (year, language) in enumerate([(2024, "de"), (2024, "en"), (2025, "en")]):
        folder = tmp_path / "in" / f"year={year}" / f"language={language}"
        folder.mkdir(parents=True)
        pyarrow.parquet.write_table(pa.table({"text": TEXTS[number : number + 2]}), folder / "x.parquet")
    (tmp_path / "in" / "_SUCCESS").touch()
    (tmp_path / "in" / ".x.parquet.crc").touch()
    score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "out")
    rows = table_of(tmp_path / "out").to_pylist()
    assert [(row["year"], row["language"], row["text"]) for row in rows] == [
        (2024, "de", TEXTS[0]), (2024, "de", TEXTS[1]), (2024, "en", TEXTS[1]), (2024, "en", TEXTS[2]),
        (2025, "en", TEXTS[2]), (2025, "en", TEXTS[3]),
    ]  # fmt: skip


def test_csv_cells_stay_as_they_are(tiny_bundle, tmp_path, monkeypatch):
    rows = [["007", "so, the film"], ["1e3", 'a "good" one'], ["", ""], ["4", "two\nlines"]]
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *rows])
        file.write("5\n6,good,more\n")
    score(monkeypatch, tiny_bundle, tmp_path / "in.csv", tmp_path / "out", chunk_rows=3)
    output = [row for part in parts(tmp_path / "out") for row in csv.DictReader(part.open(newline=""))]
    assert [[row["id"], row["text"]] for row in output] == [*rows, ["5", ""], ["6", "good"]]
    assert [bool(row["error"]) for row in output] == [False, False, True, False, True, True]
    assert "3 cells" in output[5]["error"]


@pytest.mark.parametrize("source", ["parquet", "csv", "tsv", "jsonl"])
@pytest.mark.parametrize("target", ["parquet", "csv", "jsonl"])
def test_every_format_becomes_every_other_with_the_same_answers(source, target, tiny_bundle, tmp_path, monkeypatch):
    path = tmp_path / f"in.{source}"
    if source == "parquet":
        pyarrow.parquet.write_table(pa.table({"id": range(10), "text": TEXTS}), path)
    elif source == "jsonl":
        write_lines(path)
    else:
        separator = "," if source == "csv" else "\t"
        path.write_text(
            "".join(separator.join(row) + "\n" for row in [("id", "text"), *zip("0123456789", TEXTS, strict=True)])
        )
    score(monkeypatch, tiny_bundle, path, tmp_path / "out", format=target, scores=True, chunk_rows=4)
    if target == "csv":
        rows = [row for part in parts(tmp_path / "out") for row in csv.DictReader(part.open(newline=""))]
    else:
        rows = table_of(tmp_path / "out").to_pylist() if target == "parquet" else lines_of(tmp_path / "out")
    expected = Classifier(tiny_bundle)(TEXTS)
    assert [(str(row["id"]), row["label"], float(row["score"])) for row in rows] == [
        (str(i), one.label, one.score) for i, one in enumerate(expected)
    ]
    scores = json.loads(rows[0]["scores"]) if target == "csv" else rows[0]["scores"]
    assert {one["label"]: one["score"] for one in scores} == expected[0].scores


def test_pairs_limit_columns_and_prefix(pair_bundle, tmp_path, monkeypatch):
    path = write_lines(tmp_path / "in.jsonl", other="good")
    score(
        monkeypatch, pair_bundle, path, tmp_path / "out", pair_column="other", limit=7, columns=("id",), prefix="p_",
        chunk_rows=5,
    )  # fmt: skip
    rows = lines_of(tmp_path / "out")
    assert list(rows[0]) == ["id", "p_label", "p_score", "p_error", "p_bundle"]
    expected = Classifier(pair_bundle)([(text, "good") for text in TEXTS[:7]])
    assert [(row["id"], row["p_score"]) for row in rows] == [(i, one.score) for i, one in enumerate(expected)]


def test_a_limit_at_the_end_of_a_chunk_adds_no_empty_part(tiny_bundle, tmp_path, monkeypatch):
    path = write_lines(tmp_path / "in.jsonl")
    for _ in range(2):
        summary = score(monkeypatch, tiny_bundle, path, tmp_path / "out", limit=8, chunk_rows=4)
        assert (summary["rows"], summary["parts"]) == (8, 2)
    assert summary["resumed_rows"] == 8


def test_files_without_rows_have_parts_without_rows(tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name, texts in (("a", []), ("b", TEXTS)):
        table = pa.table({"text": pa.array(texts, pa.string())})
        pyarrow.parquet.write_table(table, tmp_path / "in" / f"{name}.parquet")
    assert score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "out")["rows"] == 10
    assert [pyarrow.parquet.read_metadata(part).num_rows for part in parts(tmp_path / "out")] == [0, 10]


def test_batches_hold_similar_lengths_and_each_text_once():
    lengths = {i: int(n) for i, n in enumerate(np.random.default_rng(0).integers(3, 400, 500))}
    batches = list(sorted_batches(lengths))
    assert sorted(i for batch in batches for i in batch) == list(range(500))
    assert all(max(lengths[i] for i in b) - min(lengths[i] for i in b) < SPREAD for b in batches)


def test_a_text_on_which_the_model_fails_is_a_row_with_an_error(tiny_bundle, monkeypatch):
    scorer = Scorer(tiny_bundle)
    infer = scorer._engine.infer

    def fails(encoded):
        if any(len(one.ids) == 3 for one in encoded):
            raise RuntimeError("no memory")
        return infer(encoded)

    monkeypatch.setattr(scorer._engine, "infer", fails)
    rows = scorer(["good", "so the film"])
    assert ["the model failed" in (row.error or "") for row in rows] == [True, False]


def test_a_text_without_tokens_is_a_row_with_the_error_of_the_service(tiny_bundle, monkeypatch):
    scorer = Scorer(tiny_bundle)
    tokenize = scorer._engine.tokenize

    def drops(rows, cut):
        return [
            Encoded([], []) if row == ("\u200b",) else one for row, one in zip(rows, tokenize(rows, cut), strict=True)
        ]

    monkeypatch.setattr(scorer._engine, "tokenize", drops)
    rows = scorer(["\u200b", "so the film"])
    assert [row.error for row in rows] == ["the text has no tokens", None]


LABELLED = '{"text": "good", "label": "positive"}\n'


@pytest.mark.parametrize(
    ("options", "content", "words"),
    [
        ({"text_column": "review"}, '{"text": "good"}\n', ("no column 'review'", "--text-column", "text")),
        ({"columns": ("id",)}, '{"text": "good"}\n', ("no column 'id'", "--columns")),
        ({"columns": ("text", "text")}, '{"text": "good"}\n', ("twice",)),
        ({"pair_column": "text"}, '{"text": "good"}\n', ("single texts", "--pair-column")),
        ({}, LABELLED, ("'label'", "--prefix")),
        ({"prefix": "x_"}, LABELLED + '{"text": "good", "x_score": 1}\n', ("'x_score'", "--prefix")),
        (
            {"format": "csv"},
            '{"text": "good"}\n' * 1000 + '{"text": "bad", "more": 1}\n',
            ("'more'", "--format jsonl"),
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(options, content, words, tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "in.jsonl").write_text(content)
    with pytest.raises(InputError) as error:
        score(monkeypatch, tiny_bundle, tmp_path / "in.jsonl", tmp_path / "out", **options)
    assert all(word in str(error.value) for word in words), error.value


def test_a_table_of_objects_has_the_keys_of_all_first_ones(tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "in.jsonl").write_text('{"text": "good"}\nno json\n{"text": "bad", "more": 1}\n')
    score(monkeypatch, tiny_bundle, tmp_path / "in.jsonl", tmp_path / "out", format="parquet")
    assert table_of(tmp_path / "out").column("more").to_pylist() == [None, None, 1]


def test_labels_of_the_input_can_be_left_out(tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "in.jsonl").write_text(LABELLED)
    score(monkeypatch, tiny_bundle, tmp_path / "in.jsonl", tmp_path / "out", columns=("text",))
    assert lines_of(tmp_path / "out")[0]["score"] > 0


@pytest.mark.parametrize("kind", ["missing", "empty", "mixed", "unknown", "inside", "columns"])
def test_an_input_that_cannot_be_used_is_refused(kind, tiny_bundle, tmp_path, monkeypatch):
    source, output = tmp_path / "in", tmp_path / "out"
    words = {
        "missing": "there is no", "empty": "no files", "mixed": ".csv, .jsonl", "unknown": ".txt",
        "inside": "inside of the input", "columns": "no column 'text'",
    }[kind]  # fmt: skip
    if kind != "missing":
        source.mkdir()
    if kind in ("mixed", "inside"):
        write_lines(source / "a.jsonl")
    if kind == "mixed":
        (source / "b.csv").write_text("text\ngood\n")
    if kind == "unknown":
        (source / "a.txt").touch()
    if kind == "columns":
        pyarrow.parquet.write_table(pa.table({"text": TEXTS, "n": range(10)}), source / "a.parquet")
        pyarrow.parquet.write_table(pa.table({"n": range(10)}), source / "b.parquet")
    with pytest.raises(InputError, match=words):
        score(monkeypatch, tiny_bundle, source, source / "out" if kind == "inside" else output)


def test_another_bundle_another_option_and_other_content_are_refused(tiny_bundle, tmp_path, monkeypatch):
    path = write_lines(tmp_path / "in.jsonl")
    score(monkeypatch, tiny_bundle, path, tmp_path / "out")
    copy_with_note(tiny_bundle, tmp_path / "other", "note")
    with pytest.raises(FolderError, match="begun with bundle"):
        score(monkeypatch, tmp_path / "other", path, tmp_path / "out")
    with pytest.raises(FolderError, match="begun with scores False"):
        score(monkeypatch, tiny_bundle, path, tmp_path / "out", scores=True)
    with pytest.raises(FolderError, match="is a file"):
        score(monkeypatch, tiny_bundle, path, path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(FolderError, match=r"other content \(notes.txt\)"):
        score(monkeypatch, tiny_bundle, path, tmp_path / "full")
    assert [one.name for one in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_a_second_run_on_the_same_output_is_refused(tiny_bundle, tmp_path, monkeypatch):
    path = write_lines(tmp_path / "in.jsonl")
    with Lock(tmp_path / "out" / "run"), pytest.raises(InputError, match=r"process \d+ .* writes"):
        score(monkeypatch, tiny_bundle, path, tmp_path / "out")


def test_the_command_scores_in_processes_and_says_what_is_wrong(tiny_bundle, tmp_path, capsys, monkeypatch):
    path = write_lines(tmp_path / "in.jsonl")
    code, last, err = run(capsys, monkeypatch, "score", tiny_bundle, path, tmp_path / "out", "--processes", 2)
    assert (code, last["rows"], last["workers"], last["deaths"]) == (0, 10, 2, 0), err
    code, last, err = run(capsys, monkeypatch, "score", tmp_path / "none", path, tmp_path / "out2")
    assert (code, last) == (2, None)
    assert "neither a bundle folder nor a tag" in err
    code, last, err = run(capsys, monkeypatch, "score", tiny_bundle, path, tmp_path / "out3", "--limit", 0)
    assert code == 2


def test_a_multi_label_bundle_has_a_column_with_its_labels(tmp_path, tiny_bundle):
    from models.task import Task

    scorer = Scorer(tiny_bundle)
    task = Task(kind="multi", labels=("a", "b"), thresholds=(0.9, 0.2))
    object.__setattr__(scorer._engine, "bundle", type("B", (), {"task": task, "id": "x"})())
    assert scorer._scored([0.0, 0.0]).labels == ["b"]
    assert scorer._scored([0.0, 0.0]).label == "b"
    assert (scorer._scored([0.0, -9.0]).label, scorer._scored([0.0, -9.0]).score) == (None, 0.5)


def test_dynamic_int8_answers_do_not_depend_on_the_chunk(tmp_path, monkeypatch):
    bundle = make_tiny_bundle(tmp_path / "store", recipe="dynamic")
    path = write_lines(tmp_path / "in.jsonl")
    for name, rows in (("a", 3), ("b", 10)):
        score(monkeypatch, bundle, path, tmp_path / name, chunk_rows=rows)
    assert lines_of(tmp_path / "a") == lines_of(tmp_path / "b")


@pytest.mark.parametrize(("engine", "module"), [("ray", "ray"), ("spark", "pyspark")])
def test_an_engine_that_is_not_installed_is_refused_before_anything_is_written(
    engine, module, tiny_bundle, tmp_path, capsys, monkeypatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == module else find(name, *more)
    )
    path = write_lines(tmp_path / "in.jsonl")
    code, _, err = run(capsys, monkeypatch, "score", tiny_bundle, path, tmp_path / "out", "--engine", engine)
    assert code == 2
    assert f"pip install 'prunella[{engine}]'" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("command", "page"), [("score", "score.md"), ("plan", "capacity.md")])
def test_the_pages_have_every_option(command, page):
    text = (Path(__file__).parents[3] / "docs" / page).read_text()
    for option in typer.main.get_command(cli.app).commands[command].params:
        names = [name for name in (*option.opts, *option.secondary_opts) if name.startswith("--")]
        assert not [name for name in names if f"`{name}`" not in text and name != "--help"]


@pytest.mark.parametrize("cascade", [True, False])
def test_a_gate_answers_as_the_classifiers_does_and_its_rows_are_counted(tiny_bundle, tmp_path, monkeypatch, cascade):
    bundle = add_gate(tiny_bundle, tmp_path / "gated")
    texts = [" ".join(TEXTS[i % 10 : i % 10 + i % 4 + 1]) for i in range(50)]
    source = write_lines(tmp_path / "in.jsonl", [*texts, " "])
    summary = score(monkeypatch, bundle, source, tmp_path / "out", scores=True, chunk_rows=16, cascade=cascade)
    rows, expected = lines_of(tmp_path / "out"), Classifier(bundle, cascade=cascade)(texts)
    assert [(row["label"], row["score"]) for row in rows[:-1]] == [(one.label, one.score) for one in expected]
    assert summary["gated_rows"] == sum(one.stage == "gate" for one in expected)
    assert (summary["gated_rows"] > 0) == cascade
    assert "empty" in rows[-1]["error"]
