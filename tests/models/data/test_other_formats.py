"""Files as spreadsheets, pandas and `datasets` write them: read, or refused with what to do."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.data.texts import Texts, read_texts
from models.errors import InputError
from models.task import Task


@pytest.mark.parametrize(
    ("name", "content", "labels"),
    [
        ("a.csv", "text,label\nhi,positive \nho, positive\n", ["positive", "positive"]),  # a spreadsheet's spaces
        ("a.csv", "text, label \nhi,1\nho,0\n", ["1", "0"]),
        ("a.csv", "\ufefftext,label\r\nhi,1\r\n\r\nho,0\r\n", ["1", "0"]),
        ("a.csv", "text,label,,\nhi,1,,\nho,0,,\n", ["1", "0"]),  # columns without a name
        ("a.csv", "text,label\nhi,1\n  \nho,0\n\t\n", ["1", "0"]),
        ("a.csv", "text,label\nhi,nan\nho,yue\n", ["nan", "yue"]),  # languages: nan is Southern Min
        ("a.jsonl", '{"text": "hi", "label": 1.0}\n{"text": "ho", "label": -2}\n', ["1", "-2"]),
        ("a.jsonl", '{"text": "a\u2028b", "label": "x"}\n{"text": "c", "label": " y\\n"}\n', ["x", "y"]),
    ],
)
def test_labels_as_programs_write_them(tmp_path, name, content, labels):
    (tmp_path / name).write_bytes(content.encode())
    assert read_texts(tmp_path / name).labels == labels


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", 'text;label\n"hi, you";1\n', "line 2: not valid CSV .*separated by semicolons"),
        ("a.csv", "text;label\nhi, you;1\n", "line 2: the row has 2 columns, the header 1; .*by semicolons"),
        ("a.csv", 'text,label\n"a \\"film\\"",1\n', "line 2: not valid CSV .*; wanted quotation marks inside"),
        ("a.csv", "text,id,id\nhi,1,2\n", "two columns are named 'id'"),
        ("a.csv", "text\nhi\n  \n", "line 3: 'text' is empty"),
        ("a.jsonl", '[{"text": "hi"}]\n', r"line 1: found list, .*of an array: jq -c '\.\[\]'"),
        ("a.jsonl", '{\n  "text": "hi"\n}\n', r"line 1: not valid JSON .*of indented objects: jq -c \."),
    ],
)
def test_the_message_names_the_form(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_texts(tmp_path / name)


def test_labels_with_spaces_are_those_of_a_model_with_spaces():
    texts = Texts([("a",), ("b",)], ["pos", "neg"], "rows")
    assert texts.targets(Task(labels=(" neg", "pos\n"))).tolist() == [1, 0]
    with pytest.raises(InputError, match="differ in spaces only"):
        texts.targets(Task(labels=("pos", "pos ", "neg")))


def test_parquet_of_other_programs(tmp_path):
    names = pa.array(["x", "y"]).dictionary_encode()  # as pandas writes a categorical column
    pq.write_table(
        pa.table({"text": pa.array(["a", "b"], pa.large_string()), "label": names}), tmp_path / "a.parquet"
    )
    assert read_texts(tmp_path / "a.parquet").labels == ["x", "y"]
    pq.write_table(pa.table({"text": ["a", "b"], "label": [1.0, 0.0]}), tmp_path / "b.parquet")
    assert read_texts(tmp_path / "b.parquet").labels == ["1", "0"]


def test_a_class_index_of_no_class_is_a_missing_label(tmp_path):
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": ["n", "p"], "_type": "ClassLabel"}}
    written = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    for labels, problem in (([1, 0], None), ([1, -1], "row 2: 'label' holds None")):
        table = pa.table({"text": ["a", "b"], "label": labels})
        pq.write_table(table.replace_schema_metadata(written), tmp_path / "a.parquet")
        if problem is None:
            assert read_texts(tmp_path / "a.parquet").labels == ["1", "0"]
        else:
            with pytest.raises(InputError, match=problem):
                read_texts(tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["a"], "label": [-1]}), tmp_path / "b.parquet")  # a sentiment, perhaps
    assert read_texts(tmp_path / "b.parquet").labels == ["-1"]
