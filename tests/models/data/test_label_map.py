"""--labels: what the model calls the labels of a file; nothing is guessed."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import make_tiny_checkpoint, tiny_texts
from verbs import run

from models.data.columns import Columns
from models.data.label_map import LabelMap
from models.data.texts import Texts, read_texts
from models.errors import InputError
from models.task import Task

TASK = Task(labels=("negative", "positive"))
NEWS = Task(labels=("world, politics", "a=b", "sport"))


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("0=negative,1=positive", {"0": "negative", "1": "positive"}),
        (" 0 = negative , 1=positive ", {"0": "negative", "1": "positive"}),
        ('{"a,b": "world, politics", "c": "a=b"}', {"a,b": "world, politics", "c": "a=b"}),
        ({0: "negative"}, {"0": "negative"}),
        ("好=positive", {"好": "positive"}),
    ],
)
def test_both_forms(value, names):
    assert LabelMap.parse(value).names == names


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "is no pair"), ("0", "is no pair"), ("0=a,", "is no pair"), ("0=a=b", "is no pair"),
        ("=a", "wanted a name"), ("0=", "wanted a name"), ("0=a,0=b", "names '0' twice"),
        ('{"0": "a", "0": "b"}', "names '0' twice"), ("{", "not valid JSON"), ('{"0": 1}', "wanted a name"),
        ("{}", "wanted a name"), ({"0": ["a"]}, "wanted a name"),
    ],
)  # fmt: skip
def test_other_values_are_refused(value, message):
    with pytest.raises(InputError, match=message):
        LabelMap.parse(value)


def write(path, labels, column="label"):
    path.write_text("".join(json.dumps({"text": f"row {i}", column: v}) + "\n" for i, v in enumerate(labels)))
    return path


def read(path, labels, kind="single"):
    return read_texts(path, Columns(labels=LabelMap.parse(labels).names), kind)


def test_labels_are_those_of_the_model_and_count_in_the_identity(tmp_path):
    path = write(tmp_path / "rows.jsonl", [1, 0, "1"])
    right, wrong = read(path, "0=negative,1=positive"), read(path, "1=negative,0=positive")
    assert right.targets(TASK).tolist() == [1, 0, 1]
    assert right.take([1]).targets(TASK).tolist() == [0]
    assert wrong.targets(TASK).tolist() == [0, 1, 0]
    assert right.sha256 != wrong.sha256


def test_several_labels_of_a_row(tmp_path):
    path = write(tmp_path / "rows.jsonl", [["x", "y"], [], ["z", "x"]])
    names = '{"x": "sport", "y": "a=b", "z": "sport", "w": "world, politics"}'
    task = NEWS.model_copy(update={"kind": "multi"})
    assert read(path, names, "multi").targets(task).tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 1]]


def test_ratings_may_share_a_name_while_every_label_of_the_model_has_one(tmp_path):
    path = write(tmp_path / "rows.jsonl", [1, 2, 4])
    assert read(path, "1=negative,2=negative,4=positive").targets(TASK).tolist() == [0, 0, 1]
    with pytest.raises(InputError, match="'negative' to two labels, and none has the name 'positive'"):
        read(path, "1=negative,2=negative,4=negative").targets(TASK)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("0=negative", r"line 2: 'label' holds '1', and --labels has no name for '1': add 1=NAME"),
        ("0=negative,1=good", r"gives the name 'good', which is not the model's \(negative, positive\)"),
        ("0=negative,1=positive,2=neutral", "gives the name 'neutral'"),
    ],
)
def test_rows_without_a_label_and_unknown_names_are_refused(tmp_path, labels, message):
    path = write(tmp_path / "rows.jsonl", ["0", "1"])
    with pytest.raises(InputError, match=message):
        read(path, labels).targets(TASK)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("names", ["true=positive,false=negative", "True=positive,False=negative"])
def test_true_and_false_have_the_names_of_the_map_only(tmp_path, suffix, names):
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        write(path, [True, False])
    else:
        pq.write_table(pa.table({"text": ["a", "b"], "label": [True, False]}), path)
    assert read(path, names).targets(TASK).tolist() == [1, 0]
    with pytest.raises(InputError, match=r"holds True, wanted a label .*--labels true=NAME,false=NAME"):
        read_texts(path)
    with pytest.raises(InputError, match="--labels has no name for 'true': add true=NAME"):
        read(path, "1=positive")


def test_a_regression_has_no_labels_to_name(tmp_path):
    with pytest.raises(InputError, match="answers with a number"):
        read(write(tmp_path / "rows.jsonl", [1, 2]), "1=a", "regression")


@pytest.mark.parametrize(
    ("labels", "task", "command"),
    [
        (["0", "1"], TASK, "positions in that order, add --labels 0=negative,1=positive"),
        (["1"], TASK, "--labels 0=negative,1=positive"),
        (["00", "01"], TASK, "--labels 00=negative,01=positive"),
        (["1", "2"], TASK, "--labels 1=NAME,2=NAME"),
        (["neg", "positive"], TASK, "--labels neg=NAME,positive=positive"),
        (["0", "2"], NEWS, """--labels '{"0": "world, politics", "1": "a=b", "2": "sport"}'"""),
        (["0"], Task(labels=("very bad", "good")), "--labels '0=very bad,1=good'"),
        (["0"], Task(labels=tuple(f"n{i}" for i in range(150))), "9=n9,…"),
    ],
)
def test_the_error_has_the_command(labels, task, command):
    with pytest.raises(InputError) as error:
        Texts([("a",)] * len(labels), labels, "rows").targets(task)
    assert str(error.value).endswith(command)


@pytest.fixture
def model(tmp_path):
    make_tiny_checkpoint(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text()) | {"id2label": {"0": "negative", "1": "positive"}}
    path.write_text(json.dumps(config))
    return tmp_path / "model"


@pytest.mark.parametrize("verb", ["evaluate", "quantize", "compress"])
def test_every_verb_takes_the_names(model, tmp_path, capsys, monkeypatch, verb):
    rows = tmp_path / "rows.csv"
    texts = tiny_texts(160)
    numbers = [str(int(label == "positive")) for label in texts.labels]
    lines = [f"{row[0]},{number}\n" for row, number in zip(texts.rows, numbers, strict=True)]
    rows.write_text("text,label\n" + "".join(lines))
    flags = {
        "evaluate": (model, "--data", rows),
        "quantize": (model, "--calibration", rows, "--data", rows, "--recipe", "fp32"),
        "compress": (model, "--train", rows, "--speedup", 2, "--validation", rows),
    }[verb]
    flags = (*flags, "--store", tmp_path / "store")
    code, _, err = run(capsys, monkeypatch, verb, *flags)
    assert code == 2
    assert "--labels 0=negative,1=positive" in err
    code, _, err = run(capsys, monkeypatch, verb, *flags, "--labels", "0=negative,1=good")
    assert code == 2
    assert "'good', which is not the model's" in err
    if verb == "compress":
        monkeypatch.setattr("compress.run.check_inputs", accept)
    code, result, err = run(capsys, monkeypatch, verb, *flags, "--labels", "0=negative,1=positive")
    if verb == "compress":
        assert "the inputs are accepted" in err
    else:
        assert code == 0, err
        assert result["rows"] == 160 if verb == "evaluate" else result


def accept(*_):
    raise InputError("the inputs are accepted")
