import gzip
import importlib.util
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from models.data import csv_jsonl as reading
from models.data.columns import Columns
from models.data.texts import read_texts
from models.errors import InputError, MissingExtraError

ROOT = Path(__file__).resolve().parents[3]


def write(path: Path, rows: list[dict]) -> Path:
    """Write rows in the format that the ending names, a list of labels as CSV and TSV hold it."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        cells = [[*rows[0]], *([("|".join(c) if isinstance(c, list) else str(c)) for c in r.values()] for r in rows)]
        path.write_text("".join(mark.join(row) + "\n" for row in cells))
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("kind", "labels", "wanted"),
    [
        ("single", ["spam", "10", "ham"], ["spam", "10", "ham"]),
        ("multi", [["b", "a"], [], ["c"]], [("a", "b"), (), ("c",)]),
        ("regression", [1.5, -2.0, 1e-3], [1.5, -2.0, 1e-3]),
    ],
)
@pytest.mark.parametrize("pair", [False, True])
def test_every_format_gives_the_same_rows(tmp_path, suffix, kind, labels, wanted, pair):
    second = [{"text_pair": "the other"} if pair else {}] * 3
    rows = [{"text": f"word {i} ümläut \u2028 x", **second[i], "label": label} for i, label in enumerate(labels)]
    found = read_texts(write(tmp_path / f"a.{suffix}", rows), kind=kind)
    assert found.rows == [(r["text"], "the other") if pair else (r["text"],) for r in rows]
    assert (found.labels, found.kind, found.pair) == (wanted, kind, pair)


def test_csv_cells_may_hold_line_ends_and_the_message_names_the_rows_first_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\ufefftext,label\r\n"two\nlines, ""quoted""",x\r\n\r\n"a\nb\nc",\r\n', newline="")
    with pytest.raises(InputError, match=r"a.csv, line 5: 'label' holds ''"):
        read_texts(path)
    path.write_text('text,label\r\n"two\nlines, ""quoted""",x\r\n', newline="")
    assert read_texts(path).rows == [('two\nlines, "quoted"',)]


def test_a_quotation_mark_in_tsv_is_a_character(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"it was\tx\nthe "end"\ty\n')
    assert read_texts(tmp_path / "a.tsv").rows == [('"it was',), ('the "end"',)]


def test_whole_numbers_are_labels_and_other_columns_are_left_alone(tmp_path):
    rows = [
        {"id": 7, "text": "x", "label": 3, "vector": [1.0, 2.0]},
        {"id": 8, "text": "y", "label": 10, "vector": []},
    ]
    for suffix in ("jsonl", "parquet"):
        found = read_texts(write(tmp_path / f"a.{suffix}", rows))
        assert (found.rows, found.label_names()) == ([("x",), ("y",)], ("3", "10"))


TAIL = b'{"text": "hi", "label": "a"}\n'


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"", "a.csv has no rows"),
        ("a.jsonl", b"\n\n", "a.jsonl has no rows"),
        ("a.csv", b"text,label\n", "a.csv has no rows"),
        ("a.csv", b"text,label,text\nhi,1,ho\n", "a.csv, line 1: two columns are named 'text'"),
        ("a.tsv", b"text\ttext\nhi\tho\n", "a.tsv, line 1: two columns are named 'text'"),
        ("a.jsonl", b'{"text": "hi", "text": "ho"}\n', "a.jsonl, line 1: two columns are named 'text'"),
        ("a.tsv", b"words\tlabel\nhi\t1\n", "'text': it has words, label; --text-column names another"),
        ("a.csv", "text,label\nhi,1\nhé,1\n".encode("latin-1"), "a.csv, line 3: byte 0xe9 is not UTF-8"),
        ("a.csv", "text,label\nhi,1\n".encode("utf-16"), "a.csv is UTF-16; wanted text in UTF-8: iconv -f UTF-16"),
        ("a.jsonl", '{"text": "hi"}\n'.encode("utf-16-be"), "a.jsonl has NUL bytes, as UTF-16 has"),
        ("a.csv", gzip.compress(b"text,label\nhi,1\n", mtime=0), "a.csv is compressed with gzip; .*gunzip"),
        ("a.csv", b"PK\x03\x04" + bytes(60), "a.csv is a ZIP archive, as Excel files are"),
        ("a.csv", b"PAR1", "a.csv is a Parquet file"),
        ("a.csv.gz", b"", r"ends in '.gz': .*; gunzip it first"),
        ("a.json", b"[]", r"ends in '.json': .*; write one object per line"),
        ("a.ndjson", b"{}", r"ends in '.ndjson': .*; rename it to .jsonl"),
        ("a.csv", b"text;label\nhi;1\n", "it has text;label; its columns seem to be separated by semicolons"),
        ("a.csv", b"text\tlabel\nhi\t1\n", "seem to be separated by tabs"),
        (
            "a.tsv",
            b"good film\t1\nbad\t0\n",
            "it has good film, 1; .*; if its first line is a row, put a line of names before it",
        ),
        ("a.jsonl", b'{"review": "hi"}\n', "no column 'text': it has review; --text-column names another$"),
        ("a.csv", b"text,label\nhi,1\nho,nan\n", "a label is 'nan', and the others are numbers"),
        ("a.jsonl", TAIL + b'{"text": "  ", "label": "a"}\n', "a.jsonl, line 2: 'text' is empty"),
        ("a.jsonl", b'{"text": "x\\udc00"}\n', r"a.jsonl, line 1: 'text' holds an unpaired surrogate \\udc00"),
        ("a.jsonl", TAIL + b'{"text": "hi"}\n', "a.jsonl, line 2: the row lacks 'label'"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "a", "text_pair": "b"}\n', "line 2: the row adds 'text_pair'"),
        ("a.jsonl", b'{"text": "a", "text_pair": null}\n', "line 1: 'text_pair' holds NoneType"),
        ("a.csv", b"text,text_pair,label\na,b,1\na,,1\n", "a.csv, line 3: 'text_pair' is empty"),
        ("a.csv", b"text,label\nhi\n", "line 2: the row has 1 columns, the header 2"),
        ("a.csv", b'text,label\nhi,1\n"open,1\nhi,1\n', "line 3: not valid CSV"),
        ("a.jsonl", b'{"text": "hi", "label": 1.5}\n', "line 1: 'label' holds 1.5, wanted a label"),
        ("a.jsonl", b'{"text": "hi", "label": true}\n', "line 1: 'label' holds True, wanted a label"),
        ("a.jsonl", b'{"text": "hi", "label": " "}\n', "line 1: 'label' holds ' ', wanted a label"),
        ("a.jsonl", b'{"text": "hi", "label": "\\ud800"}\n', "line 1: 'label' holds .*surrogate"),
        ("a.jsonl", b'{"text": "hi"\n', "line 1: not valid JSON"),
        ("a.jsonl", b"[1, 2]\n", "line 1: found list, wanted an object"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000 + b"\n", "line 1: not readable as JSON"),
        ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}\n", "line 1: not readable as JSON"),
        ("a.parquet", b"PAR1 but no more than that", "a.parquet is not a whole Parquet file"),
        ("a.xlsx", b"", r"ends in '.xlsx': wanted .csv, .tsv, .jsonl, .parquet"),
    ],
)
def test_bad_files_are_refused_with_file_and_line(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told):
        read_texts(tmp_path / name)


@pytest.mark.parametrize(
    ("kind", "suffix", "label", "told"),
    [
        ("multi", "jsonl", '"a|b"', "line 1: 'label' holds 'a|b', wanted a list of labels"),
        ("multi", "jsonl", "null", "wanted a list of labels"),
        ("multi", "jsonl", '["a", 1.5]', "wanted a label"),
        ("multi", "jsonl", '["a", "a"]', "wanted each label of the text once"),
        ("multi", "jsonl", "[0, 1, 0]", "wanted each label of the text once, not 0 or 1 for each label"),
        ("multi", "csv", "\"['a', 'b']\"", "a list as Python or JSON writes it: wanted names joined"),
        ("multi", "jsonl", "[1.0, 0.0]", "wanted a label"),
        ("multi", "csv", "a||b", "line 2: 'label' holds 'a||b', wanted a label"),
        ("regression", "jsonl", "NaN", "line 1: 'label' holds nan, wanted a finite number"),
        ("regression", "jsonl", "1" + "0" * 400, "wanted a finite number"),
        ("regression", "jsonl", "-1e39", "wanted a finite number"),
        ("regression", "jsonl", '"3"', "line 1: 'label' holds '3', wanted a number"),
        ("regression", "jsonl", "true", "wanted a number"),
        ("regression", "csv", "nan", "line 2: 'label' holds 'nan', wanted a finite number"),
        ("regression", "csv", "", "wanted a number"),
        ("regression", "tsv", "high", "wanted a number"),
    ],
)
def test_labels_of_another_kind_are_refused(tmp_path, kind, suffix, label, told):
    mark = {"csv": ",", "tsv": "\t"}.get(suffix)
    line = f"text{mark}label\nhi{mark}{label}\n" if mark else f'{{"text": "hi", "label": {label}}}\n'
    (tmp_path / f"a.{suffix}").write_text(line)
    with pytest.raises(InputError, match=told.replace("|", r"\|")):
        read_texts(tmp_path / f"a.{suffix}", kind=kind)


def test_columns_asked_for_by_name_must_be_there(tmp_path):
    path = write(tmp_path / "a.parquet", [{"text": "hi", "vector": 1.0}])
    for columns in (Columns(label="topic"), Columns(text_pair="topic"), Columns(text="topic")):
        with pytest.raises(InputError, match=r"a.parquet has no column 'topic': it has text, vector"):
            read_texts(path, columns)
    assert read_texts(path).labels is None
    wanted = r"wanted labelled rows, and .*a.parquet has no column 'label': it has text, vector; --label-column names"
    with pytest.raises(InputError, match=wanted):
        read_texts(path).require_labels()
    with pytest.raises(InputError, match=r"--label-column names another; the labels of a row are one cell: a list"):
        read_texts(path, kind="multi").require_labels()
    with pytest.raises(InputError, match="is a folder: wanted one file of rows"):
        read_texts(tmp_path)
    with pytest.raises(InputError, match=r"there is no .*train: wanted a file of rows, hub:owner/name:split"):
        read_texts(tmp_path / "train")
    with pytest.raises(ValidationError, match="three names"):
        Columns(text="label")


def test_parquet_names_the_row_and_the_header(tmp_path):
    path = write(tmp_path / "a.parquet", [{"text": "hi", "label": "a"}] * 1500 + [{"text": "hi", "label": None}])
    with pytest.raises(InputError, match=r"a.parquet, row 1501: 'label' holds None"):
        read_texts(path)
    pyarrow.parquet.write_table(pyarrow.table([["hi"], ["ho"]], names=["text", "text"]), path)
    with pytest.raises(InputError, match="two columns are named 'text'"):
        read_texts(path)
    raw = pyarrow.array([b"\xff"]).cast(pyarrow.binary()).view(pyarrow.utf8())
    pyarrow.parquet.write_table(pyarrow.table([raw], names=["text"]), path)
    with pytest.raises(InputError, match="not UTF-8"):
        read_texts(path)
    pyarrow.parquet.write_table(pyarrow.table([pyarrow.array([], pyarrow.utf8())], names=["text"]), path)
    with pytest.raises(InputError, match="has no rows"):
        read_texts(path)
    with pytest.raises(InputError, match=r"cannot read .*No such file"):
        read_texts(tmp_path / "b.parquet")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv"])
def test_a_file_without_line_ends_is_refused_before_it_fills_the_memory(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        file.truncate(2**30)  # sparse: a gigabyte of zeros that takes no room
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=f"{name}, line 1: longer than {reading.LINE_LIMIT}"):
            read_texts(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 6 * reading.LINE_LIMIT
    finally:
        tracemalloc.stop()


def test_the_line_limit_names_the_line_and_lets_a_long_text_pass(tmp_path):
    long = "word " * 200_000  # 1 MB: above the csv module's own limit
    (tmp_path / "a.csv").write_text(f"text,label\n{long},1\n")
    assert read_texts(tmp_path / "a.csv").rows == [(long,)]
    (tmp_path / "b.jsonl").write_bytes(TAIL + b'{"text": "' + b"x" * 17 * 2**20 + b'", "label": "a"}\n')
    with pytest.raises(InputError, match=r"b.jsonl, line 2: longer than"):
        read_texts(tmp_path / "b.jsonl")
    (tmp_path / "c.csv").write_text('text,label\n"' + ("x" * 2**16 + "\n") * 2**8 + '",1\n')  # one cell of many lines
    with pytest.raises(InputError, match=r"c.csv, line 2: not valid CSV \(field larger"):
        read_texts(tmp_path / "c.csv")


def test_reading_does_not_hold_the_whole_file_twice(tmp_path):
    with (tmp_path / "a.jsonl").open("w") as file:
        for i in range(4000):
            file.write(json.dumps({"text": f"text {i}", "noise": "x" * 5000}) + "\n")
    tracemalloc.start()
    try:
        assert len(read_texts(tmp_path / "a.jsonl")) == 4000
        assert tracemalloc.get_traced_memory()[1] < 5e6  # the file has 20 MB
    finally:
        tracemalloc.stop()


def test_builtin_sets_have_one_label_a_row():
    with pytest.raises(InputError, match="wanted a set for a multi task"):
        read_texts("builtin:bbc-news:test", kind="multi")


@pytest.mark.parametrize(
    ("source", "package", "extra"),
    [("a.parquet", "pyarrow", "train"), ("hub:owner/name:train", "datasets", "hub")],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, source, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package} is not installed: pip install 'prunella\[{extra}\]'"):
        read_texts(source)


@pytest.mark.parametrize("name", ["hub:name:train", "hub:owner/name", "hub:../name:train", "hub:owner/name:a:b:c"])
def test_malformed_hub_names_are_refused(name):
    with pytest.raises(InputError, match="wanted hub:owner/name:split"):
        read_texts(name)


def test_a_hub_name_that_is_a_path_here_is_refused(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="owner/name is a path here too"):
        read_texts("hub:owner/name:train")


def test_importing_texts_loads_nothing_heavy():
    heavy = "{'torch', 'sklearn', 'scipy', 'pandas', 'pyarrow', 'datasets', 'transformers'}"
    assert run(f"import models.data.texts, sys; print(*({heavy} & set(sys.modules)))", []) == [""]


needs_datasets = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="datasets is not installed")
READ = """
import sys
from models.errors import InputError
from models.data.columns import Columns
from models.data.texts import read_texts
for name, kind in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        found = read_texts(name, Columns(text="sentence"), kind)
        print(found.source, found.rows, found.labels)
    except InputError as error:
        print(error)
"""
CACHE = """
import json, os, shutil, sys
from pathlib import Path
from datasets import ClassLabel, Dataset, Features, List, Value, load_dataset_builder
home, names = Path(sys.argv[1]), ["bad", "good"]
one, many = ClassLabel(names=names), List(ClassLabel(names=names))
for repo, label, labels in (
    ("one", one, [1, 0, 1]), ("many", many, [[0, 1], [], [1]]),
    ("unknown", one, [1, 0, -1]), ("numbers", Value("float32"), [1, 2, 0.5]),
):
    features = Features({"sentence": Value("string"), "label": label, "id": Value("int64")})
    rows = {"sentence": ["a", "b", "c"], "label": labels, "id": [1, 2, 3]}
    Dataset.from_dict(rows, features=features).to_parquet(home / f"{repo}.parquet")
    parts = {"train": str(home / f"{repo}.parquet")}
    builder = load_dataset_builder("parquet", data_files=parts)
    builder.download_and_prepare()
    made, target = Path(builder.cache_dir), home / "datasets" / f"owner___{repo}" / "default" / "0.0.0" / "abc"
    target.mkdir(parents=True)
    info = json.loads((made / "dataset_info.json").read_text())
    (target / "dataset_info.json").write_text(json.dumps({**info, "config_name": "default", "dataset_name": repo}))
    shutil.copy(made / "parquet-train.arrow", target / f"{repo}-train.arrow")
os._exit(0)  # threads of the library have aborted the interpreter at its end
"""


def run(code: str, arguments: list[str], **settings: str) -> list[str]:
    """Run code in a fresh process: `datasets` reads its settings once, when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ, **settings}, timeout=60,
    )  # fmt: skip
    return done.stdout.splitlines()


@needs_datasets
def test_hub_sets_are_read_from_the_cache_without_network(tmp_path):
    home = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    run(CACHE, [str(tmp_path)], **home)
    repos = {"one:train": "single", "many:default:train": "multi", "numbers:train": "regression"}
    wrong = {"unknown:train": "single", "one:test": "single", "one:other:train": "single"}
    asked = [part for name, kind in {**repos, **wrong}.items() for part in (f"hub:owner/{name}", kind)]
    *found, unknown, split, configuration = run(READ, asked, **home)
    assert found == [
        "hub:owner/one:train [('a',), ('b',), ('c',)] ['good', 'bad', 'good']",
        "hub:owner/many:default:train [('a',), ('b',), ('c',)] [('bad', 'good'), (), ('good',)]",
        "hub:owner/numbers:train [('a',), ('b',), ('c',)] [1.0, 2.0, 0.5]",
    ]
    assert unknown == "hub:owner/unknown:train, row 3: 'label' holds None, wanted a label (a text or a whole number)"
    assert split.startswith("hub:owner/one:test cannot be loaded (Unknown split")
    assert configuration.startswith("hub:owner/one:other:train cannot be loaded (Couldn't find cache")


@needs_datasets
def test_hub_sets_that_are_not_there_are_refused_in_one_sentence(tmp_path):
    asked = ["hub:owner/nothing:train", "single"]
    (off,) = run(READ, asked, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert off.startswith("hub:owner/nothing:train cannot be loaded (")
    assert off.endswith("the network is off: set HF_HUB_OFFLINE=0 to use it")
    nobody = "http://127.0.0.1:9"  # the port of the discard service, where nothing listens
    (unreachable,) = run(READ, asked, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0", HF_ENDPOINT=nobody)
    assert unreachable.startswith("hub:owner/nothing:train: the hub cannot be reached (ConnectionError)")
