"""The commands as functions: strings for paths, results instead of printed lines, and errors of one family."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from pandas import DataFrame
from tiny import make_tiny_checkpoint, tiny_texts

import prunella
from models.errors import FolderError, InputError
from prunella import Classifier, cascade, compress, evaluate, finetune, quantize

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A classifier that finetune() made of a tiny encoder, its rows and its store."""
    home = tmp_path_factory.mktemp("api")
    make_tiny_checkpoint(home / "encoder")
    texts = tiny_texts(300)
    with (home / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([row[0], label] for row, label in zip(texts.rows, texts.labels, strict=True))
    rows, store = str(home / "rows.csv"), str(home / "store")
    result = finetune(train=rows, encoder=str(home / "encoder"), epochs=3, max_tokens=32, store=store)
    return result, rows, store


def test_from_texts_to_answers(made, capsys):
    classifier, rows, store = made
    assert classifier.report["rows"] > 0
    bundle = quantize(classifier.folder, calibration=rows, data=rows, recipe="static", max_loss=100, store=store)
    score = evaluate(bundle.folder, data=rows)
    assert capsys.readouterr().out == ""  # what is printed is the command line's
    with open(rows) as file:
        labelled = list(csv.DictReader(file))
    answers = Classifier(bundle.folder, device="cpu")([row["text"] for row in labelled])
    right = sum(answer.label == row["label"] for answer, row in zip(answers, labelled, strict=True))
    assert score["accuracy"] == pytest.approx(right / len(labelled))


def test_compress_gives_what_the_command_prints(made, tmp_path, capsys):
    classifier, rows, store = made
    options = {"train": rows, "validation": rows, "size_mb": 0.135, "mode": "instant", "max_loss": 100.0}
    result = compress(
        classifier.folder, **options, weak_teacher=True, tolerance=0.1, store=store, out=str(tmp_path / "a")
    )
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "prunella", "compress", classifier.folder, *flags, "--weak-teacher"]
    done = subprocess.run(
        [*command, "--tolerance=0.1", "--store", store, "--out", str(tmp_path / "b")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == (1 if result.missed else 0), done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    same = ("id", "bytes", "loss_points", "rows", "architecture", "target_met")
    assert {name: printed[name] for name in same} == {name: result.report[name] for name in same}
    assert Path(printed["folder"]) == tmp_path / "b"
    assert result.folder == tmp_path / "a"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda made: finetune(train=made[1], epochs=0), "epochs"),
        (lambda made: compress(made[0].folder, made[1], tolerance=2), "tolerance"),
        (lambda made: compress(made[0].folder, made[1], speedup=4, size_mb=1), "wanted one target"),
        (lambda made: Classifier(made[0].folder, threads=0), "threads"),
        (lambda made: evaluate("nowhere", data=made[1]), "nowhere"),
        (lambda made: evaluate(made[0].folder, ["a"]), "data is a list: wanted the name of a file of rows"),
        (lambda made: evaluate(made[0].folder, DataFrame({"text": ["a"]})), r"first: data.to_csv\('data.csv'"),
        (lambda made: evaluate(None, made[1]), "model is None: wanted a path"),
        (lambda made: evaluate(made[0].folder, made[1], windows=0), "windows is 0: wanted 1 or more and 64 at most"),
        (lambda made: finetune(None), "train is None: wanted the name of a file"),
        (lambda made: finetune(made[1], task="foo"), "task is 'foo': choose from single, multi, regression"),
        (lambda made: finetune(made[1], seeds=0), "seeds is 0: wanted 1 or more"),
        (lambda made: finetune(made[1], teacher=[1]), "teacher is a list: wanted a folder, or a list of folders"),
        (lambda made: compress(made[0].folder, ["a"]), "train is a list"),
        (lambda made: compress(made[0].folder, made[1], speedup="fast"), "speedup is 'fast': wanted a number"),
        (lambda made: compress(made[0].folder, made[1], labels=3), "--labels is 3"),
        (lambda made: quantize(made[0].folder, made[1], calibrator="best"), "calibrator is 'best': choose from mse"),
        (lambda made: cascade("bundle", made[1], made[1], against="me"), "against is 'me': choose from student, mod"),
        (lambda made: Classifier(made[0].folder, truncate="middle"), "truncate is 'middle': choose from right, left"),
    ],
)
def test_wrong_values_are_input_errors(made, call, message):
    with pytest.raises(InputError, match=message):
        call(made)


def test_an_out_that_cannot_be_written_is_refused_before_any_work(made, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FolderError, match="finished folder"):
        finetune(train="no-such-file.csv", out=str(tmp_path / "file"))


def test_all_names_are_there_and_no_others():
    assert all(callable(getattr(prunella, name)) for name in prunella.__all__)
    with pytest.raises(AttributeError, match="no attribute 'serve_everything'"):
        _ = prunella.serve_everything


def test_without_the_extra_the_message_names_it():
    code = "import sys; sys.modules['torch'] = None\nfrom prunella import finetune"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.strip().endswith("pip install 'prunella[train]'")


def test_every_command_that_reads_rows_takes_the_names_of_their_columns(made, tmp_path, capsys):
    classifier, rows, store = made
    other, plain = tmp_path / "other.csv", tmp_path / "plain.csv"
    other.write_text(Path(rows).read_text().replace("text,label", "review,stars", 1))
    plain.write_text("\n".join(line.rpartition(",")[0] for line in other.read_text().splitlines()) + "\n")
    further = tmp_path / "further.csv"  # the same texts would be left out as labelled rows
    further.write_text("review\n" + "".join(f"{line} indeed\n" for line in plain.read_text().splitlines()[1:]))
    columns = {"text_column": "review", "label_column": "stars"}
    finetuned = finetune(train=str(other), encoder=classifier.folder, epochs=1, max_tokens=32, store=store, **columns)
    assert finetuned.report["rows"] == classifier.report["rows"]
    bundle = quantize(
        classifier.folder,
        calibration=str(plain),
        data=str(other),
        recipe="static",
        max_loss=100,
        store=store,
        **columns,
    )
    assert (
        evaluate(bundle.folder, data=str(other), **columns)["accuracy"] == evaluate(bundle.folder, rows)["accuracy"]
    )
    options = {"size_mb": 0.135, "mode": "instant", "max_loss": 100.0, "weak_teacher": True, "tolerance": 0.1}
    named = compress(classifier.folder, str(other), str(other), texts=str(further), store=store, **options, **columns)
    assert named.report["rows"] > 0
    with pytest.raises(InputError, match="review"):
        evaluate(bundle.folder, data=rows, **columns)


def test_a_hugging_face_folder_is_evaluated_like_any_other(made, tmp_path):
    import shutil

    classifier, rows, _ = made
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copy(Path(classifier.folder) / name, folder / name)
    theirs = evaluate(str(folder), data=rows, store=str(tmp_path / "store"))
    assert theirs["accuracy"] == evaluate(classifier.folder, data=rows)["accuracy"]
