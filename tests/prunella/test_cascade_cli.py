"""`prunella cascade`, and `cascade()` of the Python API."""

import csv
import shutil
from pathlib import Path

import pytest
from bundles import sign
from gates import add_gate
from verbs import run

from models.errors import InputError
from models.task import Task
from prunella import Classifier
from prunella import cascade as learn_cascade
from service.model.bundle import Bundle

pytest_plugins = ["serving"]  # the fixtures tiny_bundle and pair_bundle
GOOD, BAD, OTHER = ("good", "fine", "great"), ("bad", "poor", "awful"), ("the", "film", "story", "music", "plot")


def write_rows(path: Path, count: int, first: int, labelled: bool = True) -> Path:
    """Write rows, each of them once, whose words say their label."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", *(["label"] if labelled else [])])
        for i in range(first, first + count):
            words = (GOOD if i % 2 else BAD)[i % 3], *(OTHER[i // 5**k % 5] for k in range(1, 6))
            writer.writerow([" ".join(words), *(["positive" if i % 2 else "negative"] if labelled else [])])
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rows")
    return {
        "train": write_rows(folder / "train.csv", 300, 0),
        "validation": write_rows(folder / "validation.csv", 300, 2000),
        "test": write_rows(folder / "test.csv", 100, 5000),
        "texts": write_rows(folder / "texts.csv", 50, 8000, labelled=False),
        "few": write_rows(folder / "few.csv", 40, 9000),
    }


def options(files: dict[str, Path], *names: str) -> list[object]:
    return [part for name in names for part in (f"--{name}", files[name])]


def test_a_bundle_gets_a_gate_and_the_last_line_says_what_it_costs(tiny_bundle, files, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    code, line, err = run(
        capsys, monkeypatch, "cascade", tiny_bundle, *options(files, "train", "validation", "test", "texts"),
        "--max-loss", "4", "--store", tmp_path / "store", "--out", out,
    )  # fmt: skip
    assert code == 0, err
    assert line["folder"] == str(out)
    assert line["cascade"]["bound_points"] <= 4
    assert (
        line["cascade"]["loss_interval"][0] <= line["cascade"]["loss_points"] <= line["cascade"]["loss_interval"][1]
    )
    assert Bundle.open(out).gate.info.share == line["cascade"]["share"]
    assert {one.stage for one in Classifier(out)(["the good film plot", "the bad film plot"])} <= {"gate", "student"}


def test_without_a_threshold_nothing_is_written_and_the_exit_code_is_one(
    tiny_bundle, files, tmp_path, capsys, monkeypatch
):
    code, line, err = run(
        capsys, monkeypatch, "cascade", tiny_bundle, *options(files, "train"), "--validation", files["few"],
        "--store", tmp_path / "store", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 1
    assert line["cascade"] is None
    assert "it takes 6" in line["cascade_problem"]
    assert line["cascade_problem"] in err
    assert not (tmp_path / "out").exists()


def test_a_gate_can_be_replaced(tiny_bundle, files, tmp_path):
    gated = add_gate(tiny_bundle, tmp_path / "gated")
    found = learn_cascade(
        str(gated), str(files["train"]), str(files["validation"]), max_loss=4, store=str(tmp_path / "store"),
        out=str(tmp_path / "out"),
    )  # fmt: skip
    assert found["cascade"]["loss_points"] is None  # no test rows
    assert Bundle.open(tmp_path / "out").gate.info.rows == found["cascade"]["rows"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--max-loss", "0"], "max_loss"),
        (["--against", "model"], "give --model FOLDER"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_wrong_use_is_one_sentence(tiny_bundle, files, tmp_path, capsys, monkeypatch, change, message):
    alone = shutil.copytree(tiny_bundle, tmp_path / "alone" / "bundle")  # its classifier is not beside it
    code, line, err = run(
        capsys, monkeypatch, "cascade", alone, *options(files, "train", "validation"),
        "--store", tmp_path / "store", *change,
    )  # fmt: skip
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert line is None


def test_a_model_that_gives_a_number_is_refused_before_its_labels_are_read(
    tiny_bundle, files, tmp_path, capsys, monkeypatch
):
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    Task(kind="regression", labels=("value",), max_tokens=32).write(tmp_path / "bundle" / "task.json")
    with pytest.raises(InputError, match="gives a number: a gate is for models that give one label to one text"):
        learn_cascade(str(sign(tmp_path / "bundle")), str(files["train"]), str(files["validation"]))


def test_a_model_of_pairs_has_no_gate(pair_bundle, files, tmp_path, capsys, monkeypatch):
    code, _, err = run(
        capsys, monkeypatch, "cascade", pair_bundle, *options(files, "train", "validation"),
        "--store", tmp_path / "store",
    )  # fmt: skip
    assert code == 2
    assert "reads pairs of texts: a gate is for models that give one label to one text" in err
