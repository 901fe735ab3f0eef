"""Files that are not as they should be: an answer, or one sentence that says what is wrong; never a wrong row."""

import csv
import datetime
import decimal
import json
import os
import shutil
import subprocess

import pyarrow as pa
import pyarrow.parquet
import pytest
from scoring import TEXTS, lines_of, parts, score, table_of, write_lines

from models.errors import InputError

pytest_plugins = ["serving"]
THREE = TEXTS[:3]


def write_parquet(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = columns.pop("table", None)
    pyarrow.parquet.write_table(pa.table(columns) if table is None else table, path)
    return path


def csv_of(output):
    return [row for part in parts(output) for row in csv.DictReader(part.open(newline=""))]


def types_of(output, *names):
    schema = table_of(output).schema
    return [str(schema.field(name).type) for name in names]


# files of a folder that differ

FOLDERS = {
    "no text": ({"a.csv": "id,text\n1,good\n", "b.csv": "id,review\n2,bad\n"}, "b.csv has no column 'text'"),
    "a column more": ({"a.csv": "text\ngood\n", "b.csv": "text,label\nbad,x\n"}, "b.csv has a column 'label'"),
    "a column less": ({"a.csv": "id,text\n1,good\n", "b.csv": "text\nbad\n"}, "b.csv has no column 'id'"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_csv_files_with_other_columns_than_the_first_are_refused_by_name(case, tiny_bundle, tmp_path, monkeypatch):
    files, words = FOLDERS[case]
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        (tmp_path / "in" / name).write_text(content)
    with pytest.raises(InputError, match=words) as error:
        score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "out")
    assert "--columns" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_csv_files_have_the_order_of_the_first_and_empty_ones_are_no_rows(tiny_bundle, tmp_path, monkeypatch):
    contents = {"a": "", "b": "id, text \n1,good\n", "c": "text,id\nbad,2\n", "d": "", "e": "id,text\n"}
    (tmp_path / "in").mkdir()
    for name, content in contents.items():
        (tmp_path / "in" / f"{name}.csv").write_text(content)
    score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "out")
    headers = {part.read_text().splitlines()[0] for part in parts(tmp_path / "out")}
    assert headers == {"id,text,label,score,error,bundle"}
    assert [(row["id"], row["text"]) for row in csv_of(tmp_path / "out")] == [("1", "good"), ("2", "bad")]


def test_parquet_files_that_differ_are_refused_before_anything_is_written(tiny_bundle, tmp_path, monkeypatch):
    first = {"text": THREE, "id": [1, 2, 3]}
    others = {
        "has a column 'label'": {**first, "label": THREE},
        "has no column 'id'": {"text": THREE},
        "has no column 'text'": {"review": THREE, "id": [1, 2, 3]},
        "'id' is string in": {"text": THREE, "id": ["007", "2", "3"]},  # 7 would be another value
        "'id' is double in": {"text": THREE, "id": [1.0, 2.5, 3.0]},
    }
    for number, (words, columns) in enumerate(others.items()):
        folder = tmp_path / f"in{number}"
        write_parquet(folder / "a.parquet", **first)
        write_parquet(folder / "b.parquet", **columns)
        with pytest.raises(InputError, match=words):
            score(monkeypatch, tiny_bundle, folder, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    score(monkeypatch, tiny_bundle, tmp_path / "in3", tmp_path / "out", columns=("text",))  # without the column
    assert table_of(tmp_path / "out").column("text").to_pylist() == THREE * 2


def test_parquet_files_may_differ_in_width_order_and_nulls(tiny_bundle, tmp_path, monkeypatch):
    plain = pa.schema([pa.field("text", pa.string(), nullable=False), ("id", pa.int64()), ("note", pa.null())])
    table = pa.table({"text": THREE, "id": [1, 2, 3], "note": pa.nulls(3)}, schema=plain)
    write_parquet(tmp_path / "in" / "a.parquet", table=table)
    write_parquet(
        tmp_path / "in" / "b.parquet",
        note=["x", None, "y"], id=pa.array([4, 5, 6], pa.int16()),
        text=pa.array(["good", None, "bad"], pa.large_string()),
    )  # fmt: skip
    summary = score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "out", chunk_rows=2)
    rows = table_of(tmp_path / "out").to_pylist()
    assert [(row["id"], row["note"], row["text"]) for row in rows[3:]] == [
        (4, "x", "good"), (5, None, None), (6, "y", "bad")
    ]  # fmt: skip
    assert summary["errors"] == 1
    assert types_of(tmp_path / "out", "text", "id", "note") == ["string", "int64", "string"]


def test_a_number_that_does_not_fit_the_first_files_type_ends_the_run_with_a_sentence(
    tiny_bundle, tmp_path, monkeypatch
):
    write_parquet(tmp_path / "in" / "a.parquet", text=THREE, id=pa.array([1, 2, 3], pa.int16()))
    write_parquet(tmp_path / "in" / "b.parquet", text=THREE, id=[4, 2**40, 6])
    with pytest.raises(
        InputError, match=r"b\.parquet, rows 1 to 3: the column 'id' is int64, in the first file int16"
    ):
        score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "out")
    assert table_of(tmp_path / "out").num_rows == 3


# partitions


def test_partitions_may_be_null_and_have_any_characters(tiny_bundle, tmp_path, monkeypatch):
    for folder in ("y=__HIVE_DEFAULT_PARTITION__/city=New%20York", "y=2024/city=Köln ü"):
        write_parquet(tmp_path / "in" / folder / "a b.parquet", text=THREE[:1])
    score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "out")
    rows = table_of(tmp_path / "out").to_pylist()
    assert [(row["y"], row["city"]) for row in rows] == [(2024, "Köln ü"), (None, "New York")]
    shutil.rmtree(tmp_path / "in" / "y=2024")
    score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "null")
    assert [row["y"] for row in table_of(tmp_path / "null").to_pylist()] == [None]


@pytest.mark.parametrize(
    ("values", "expected"),
    [(("01", "12"), [1, 12]), (("2024", "new"), ["2024", "new"]), (("1", str(2**31)), ["1", str(2**31)])],
)
def test_partitions_are_numbers_if_all_of_them_are(values, expected, tiny_bundle, tmp_path, monkeypatch):
    for value in values:
        write_parquet(tmp_path / "in" / f"k={value}" / "a.parquet", text=THREE[:1])
    score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "out")
    assert [row["k"] for row in table_of(tmp_path / "out").to_pylist()] == expected


def test_a_partition_that_is_a_column_too_and_one_that_only_some_files_have_are_refused(
    tiny_bundle, tmp_path, monkeypatch
):
    write_parquet(tmp_path / "in" / "y=1" / "a.parquet", text=THREE, y=[1, 2, 3])
    with pytest.raises(InputError, match="'y' is a column of the file and a partition too"):
        score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "out")
    write_parquet(tmp_path / "in2" / "y=1" / "a.parquet", text=THREE)
    write_parquet(tmp_path / "in2" / "z.parquet", text=THREE)
    with pytest.raises(InputError, match=r"z\.parquet has no column 'y'"):
        score(monkeypatch, tiny_bundle, tmp_path / "in2", tmp_path / "out")


# names and links


def test_a_link_that_leads_nowhere_or_to_a_folder_is_not_passed_over(tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    write_lines(tmp_path / "in" / "a.jsonl")
    (tmp_path / "in" / "b.jsonl").symlink_to(tmp_path / "none")
    with pytest.raises(InputError, match=r"b\.jsonl is a link to nothing"):
        score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "out")
    (tmp_path / "more").mkdir()
    (tmp_path / "in" / "b.jsonl").unlink()
    (tmp_path / "in" / "more").symlink_to(tmp_path / "more")
    with pytest.raises(InputError, match="more is a link to a folder"):
        score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "out")


def test_a_name_that_is_not_utf_8_and_a_pipe_are_refused(tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    shutil.copy(write_lines(tmp_path / "a.jsonl"), os.fsencode(tmp_path / "in") + b"/a\xff.jsonl")
    with pytest.raises(InputError, match=r"a\\xff.jsonl' is not UTF-8: rename it"):
        score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "out")
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        score(monkeypatch, tiny_bundle, tmp_path / "pipe.jsonl", tmp_path / "out")


def test_an_output_that_is_a_link_is_one_output(tiny_bundle, tmp_path, monkeypatch):
    from models.store.lock import Lock

    path = write_lines(tmp_path / "in ü 数.jsonl")
    (tmp_path / "link").symlink_to(tmp_path / "out put")
    score(monkeypatch, tiny_bundle, path, tmp_path / "link", chunk_rows=3)
    assert len(lines_of(tmp_path / "out put")) == 10
    with Lock(tmp_path / "out put" / "run"), pytest.raises(InputError, match=r"process \d+ .* writes"):
        score(monkeypatch, tiny_bundle, path, tmp_path / "link", chunk_rows=3)


def mounted(path):
    """Mount a file system of 1 MB, of which 200 kB are left; the reader may not have the right to."""
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", path], capture_output=True).returncode:
        pytest.skip("this user cannot mount a file system")
    return path


def test_an_output_in_a_folder_that_cannot_be_written_works_and_a_full_one_goes_on(
    tiny_bundle, tmp_path, monkeypatch
):
    path = write_lines(tmp_path / "in.jsonl", TEXTS * 200)
    parent = mounted(tmp_path / "parent")
    try:
        (parent / "out").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", parent / "out"], check=True)
        subprocess.run(["mount", "-o", "remount,ro", parent], check=True)
        with pytest.raises(Exception, match="No space left on device") as error:
            score(monkeypatch, tiny_bundle, path, parent / "out", chunk_rows=100)
        assert "make room and run the same command again" in str(error.value)
        subprocess.run(["mount", "-o", "remount,size=20M", parent / "out"], check=True)
        summary = score(monkeypatch, tiny_bundle, path, parent / "out", chunk_rows=100)
        assert 0 < summary["resumed_rows"] < 2000
        assert [row["id"] for row in lines_of(parent / "out")] == list(range(2000))
    finally:
        subprocess.run(["umount", parent / "out"], check=False)
        subprocess.run(["umount", parent], check=False)


# CSV and JSONL


def test_a_carriage_return_in_a_text_stays_in_its_cell(tiny_bundle, tmp_path, monkeypatch):
    texts = ["good\rfilm", "a\r\nb", "c\nd", 'e "f", g', "\u2028"]
    write_parquet(tmp_path / "in.parquet", id=range(5), text=texts)
    score(monkeypatch, tiny_bundle, tmp_path / "in.parquet", tmp_path / "out", format="csv")
    rows = csv_of(tmp_path / "out")
    assert [row["text"] for row in rows] == texts
    assert [row["id"] for row in rows] == list("01234")


@pytest.mark.parametrize("target", ["csv", "jsonl"])
def test_values_of_parquet_that_text_does_not_have_are_written_in_one_way(target, tiny_bundle, tmp_path, monkeypatch):
    zone = pa.timestamp("us", "Europe/Berlin")
    table = pa.table({
        "text": ["good"],
        "raw": pa.array([b"\xff\x00"]),
        "nanoseconds": pa.array([10**18 + 1], pa.timestamp("ns")),
        "far": pa.array([2**62], pa.timestamp("us")),
        "zone": pa.array([0], zone),
        "day": [datetime.date(2026, 11, 27)],
        "price": pa.array([decimal.Decimal("1.50")]),
        "list": pa.array([["a|b", "c"]]),
        "nested": pa.array([{"at": 0, "raw": [b"\xff"]}], pa.struct([("at", zone), ("raw", pa.list_(pa.binary()))])),
        "real": [float("nan")],
        "times": pa.array([[1]], pa.list_(pa.timestamp("s"))),
        "wait": pa.array([1500], pa.duration("ms")),
    })  # fmt: skip
    write_parquet(tmp_path / "in.parquet", table=table)
    score(monkeypatch, tiny_bundle, tmp_path / "in.parquet", tmp_path / "out", format=target)
    if target == "csv":
        [row] = csv_of(tmp_path / "out")
        row = {name: json.loads(row[name]) if row[name][:1] in ("[", "{") else row[name] for name in row}
        real, wait = "nan", "1500"
    else:
        [line] = parts(tmp_path / "out")[0].read_text().splitlines()
        row = json.loads(line, parse_constant=pytest.fail)  # NaN is not JSON
        real, wait = None, 1500
    expected = {
        "raw": "/wA=", "nanoseconds": "2001-09-09 01:46:40.000000001", "zone": "1970-01-01 00:00:00.000000Z",
        "day": "2026-11-27", "price": "1.50", "list": ["a|b", "c"], "real": real, "wait": wait,
        "nested": {"at": "1970-01-01 00:00:00.000000Z", "raw": ["/w=="]}, "times": ["1970-01-01 00:00:01.000"],
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert "out of range" in row["far"]


def test_unpaired_surrogates_become_a_table_and_their_text_has_an_error(tiny_bundle, tmp_path, monkeypatch):
    lines = [r'{"text": "a \ud800 b", "note": "\udfff"}', r'{"text": "good", "note": "\ud83d\ude00"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    for target in ("parquet", "csv"):
        score(monkeypatch, tiny_bundle, tmp_path / "in.jsonl", tmp_path / target, format=target)
    for rows in (table_of(tmp_path / "parquet").to_pylist(), csv_of(tmp_path / "csv")):
        assert [(row["text"], row["note"]) for row in rows] == [("a \ufffd b", "\ufffd"), ("good", "\U0001f600")]
        assert "surrogate" in rows[0]["error"]
        assert not rows[1]["error"]


def test_keys_of_any_of_the_first_objects_are_columns(tiny_bundle, tmp_path, monkeypatch):
    path = tmp_path / "in.jsonl"
    path.write_text('{"id": 1}\n{"id": 2, "text": "good"}\n{"text": null}\n')
    score(monkeypatch, tiny_bundle, path, tmp_path / "out")
    errors = [row["error"] for row in lines_of(tmp_path / "out")]
    assert errors == ["the row has no 'text'", None, "the text is null"]
    path.write_text('{"text": "good"}\n{"text": "good", "label": "x"}\n')  # two columns of one name
    for target in ("csv", "parquet", "jsonl"):
        with pytest.raises(InputError, match="a column 'label'"):
            score(monkeypatch, tiny_bundle, path, tmp_path / "clash", format=target)


@pytest.mark.parametrize("target", ["csv", "parquet", "jsonl"])
def test_jsonl_without_lines_has_no_rows(target, tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text("")
    (tmp_path / "in" / "b.jsonl").write_text("\n \n")
    assert score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "none", format=target)["rows"] == 0
    write_lines(tmp_path / "in" / "c.jsonl")
    assert score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "out", format=target)["rows"] == 10


SENTENCES = {
    "semicolons": ("a.csv", "id;text\n1;good\n", r"separated by semicolons"),
    "array": ("a.jsonl", '[{"text": "good"},\n{"text": "bad"}]\n', r"a\.jsonl, line 1: .* jq -c"),
    "quotation": ("a.csv", 'id,text\n1,good\n2,"bad\n3,fine\n', r"line 3: not valid CSV .* quotation marks"),
    "suffix": ("a.jsonl.gz", "", r"\.gz.* gunzip it first"),
    "depth": ("a.jsonl", '{"text": "good", "x": ' + "[" * 300 + "]" * 300 + "}", r"nested.*--format jsonl"),
    "mixed": ("a.jsonl", '{"text": "good", "x": 1}\n{"text": "bad", "x": "a"}\n', "do not fit .*--format jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("case", SENTENCES)
def test_the_sentence_says_what_to_do(case, tiny_bundle, tmp_path, monkeypatch):
    name, content, words = SENTENCES[case]
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words):
        score(monkeypatch, tiny_bundle, tmp_path / name, tmp_path / "out", format="parquet")


def test_no_column_of_the_input_can_be_kept(tiny_bundle, tmp_path, monkeypatch):
    write_parquet(tmp_path / "in.parquet", text=THREE, label=THREE)
    score(monkeypatch, tiny_bundle, tmp_path / "in.parquet", tmp_path / "out", columns=())
    assert table_of(tmp_path / "out").schema.names == ["label", "score", "error", "bundle"]
    assert table_of(tmp_path / "out").num_rows == 3
