"""Students of teachers: what they learn, and from which folders and files."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled import make_texts, write_csv
from scipy.special import log_softmax
from teaching import CONFIG, KINDS, LABELS, Given, write_table
from tiny import make_tiny_family

import prunella
from models.checkpoint import load_checkpoint
from models.data.texts import Texts
from models.finetuning.finetune import Splits
from models.finetuning.finetune_config import TeachingConfig
from models.finetuning.losses import LossConfig
from models.finetuning.predict import predict
from models.finetuning.seeds import finetune_seeds
from models.task import Task
from models.teachers.answers import answers_of
from models.teachers.guidance import Guidance, Source
from models.teachers.teacher import open_teacher
from models.tokenizer import Tokenizer


def distance(given: Given, line: dict, kind: str) -> float:
    """How far a student's scores are from the teacher's on rows that neither saw."""
    rows = make_texts(kind, 200, seed=9).rows
    folder = Path(line["folder"])
    tokenizer, task = Tokenizer.open(folder, 32), Task.read(folder / "task.json")
    ours = task.scores(predict(load_checkpoint(folder), tokenizer.encode(rows), tokenizer))
    return float(np.abs(ours - given.scores(kind, rows)[1]).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_learns_its_teachers_answers_from_unlabelled_texts(given, student, kind):
    teacher = ("--teacher", given.teachers[kind].path, "--texts", given.path("texts", kind), "--teacher-weight", 0.9)
    (code, alone, err), (taught_code, taught, taught_err) = (
        student(*more, kind=kind, epochs=6) for more in ((), teacher)
    )
    assert code == taught_code == 0, err + taught_err
    assert distance(given, taught, kind) < 0.8 * distance(given, alone, kind)
    assert "teachers" not in alone
    metric = {"single": "accuracy", "multi": "micro_f1", "regression": "spearman"}[kind]
    (entry,) = taught["teachers"]
    assert entry["teacher"] == str(given.teachers[kind].path)
    assert entry[metric] > 0.5
    assert taught["steps"] == 6 * -(-(32 + 128 - repeated(given, kind)) // 16)


def repeated(given: Given, kind: str) -> int:
    """Further texts that are among the labelled rows, or come twice."""
    texts = given.rows("texts", kind).rows
    labelled = {*given.rows("train", kind).rows, *given.rows("validation", kind).rows}
    return len(texts) - len(set(texts) - labelled)


@pytest.mark.parametrize(("kind", "suffix"), [("single", "csv"), ("multi", "jsonl"), ("regression", "parquet")])
def test_a_file_of_scores_teaches_what_the_folder_teaches(given, student, tmp_path, kind, suffix):
    count = 1 if kind == "regression" else 3
    scores = given.write_scores(tmp_path / f"scores.{suffix}", kind, order=list(range(count))[::-1])
    texts = ("--texts", given.path("texts", kind))
    folder, file = (
        student(*texts, *arguments, kind=kind)
        for arguments in (("--teacher", given.teachers[kind].path), ("--teacher-scores", scores))
    )
    assert folder[0] == file[0] == 0, file[2]
    rows = make_texts(kind, 50, seed=9).rows
    outputs = []
    for _, line, _ in (folder, file):
        tokenizer = Tokenizer.open(Path(line["folder"]), 32)
        outputs.append(predict(load_checkpoint(Path(line["folder"])), tokenizer.encode(rows), tokenizer))
    np.testing.assert_allclose(*outputs, atol=2e-2)
    drop = ("teacher",)
    one, other = ({k: v for k, v in line["teachers"][0].items() if k not in drop} for _, line, _ in (folder, file))
    assert one == pytest.approx(other)


def test_row_numbers_and_logits(given, student, tmp_path):
    rows = [*given.rows("train").rows, *given.rows("texts").rows]
    labels, scores = given.scores("single", rows)
    lines = [[i, *map(repr, map(float, np.log(line) + 3))] for i, line in enumerate(scores)]
    numbered = write_table(tmp_path / "numbered.csv", ["row", *labels], lines)
    texts = ("--texts", given.path("texts"))
    code, line, err = student(*texts, "--teacher-scores", numbered, "--teacher-logits")
    assert code == 0, err
    assert line["teachers"] == [{"teacher": str(numbered), "models": 1}]  # no scores of the evaluated rows
    named = given.write_scores(tmp_path / "named.csv", names=("train", "texts"))
    same = student(*texts, "--teacher-scores", named)[1]
    first, second = (load_checkpoint(Path(one["folder"])).state_dict() for one in (line, same))
    assert all(torch.allclose(first[name], second[name], atol=1e-2) for name in first)


def test_the_same_command_is_reused_and_everything_that_decides_is_part_of_it(given, student):
    teacher = ("--teacher", given.teachers["single"].path)
    first = student(*teacher)[1]
    assert student(*teacher)[1]["reused"]
    assert not first["reused"]
    others = [
        student()[1], student(*teacher, "--teacher-weight", 1)[1], student(*teacher, "--teacher-temperature", 1)[1],
        student(*teacher, "--texts", given.path("texts"))[1], student(*teacher, *teacher)[1],
    ]  # fmt: skip
    assert len({line["folder"] for line in (first, *others)}) == 6
    assert student(*teacher, "--teacher-weight", 0.5, "--teacher-temperature", 2)[1]["folder"] == first["folder"]


def test_the_same_seed_gives_the_same_student(given, student, tmp_path):
    teacher = ("--teacher", given.teachers["multi"].path, "--texts", given.path("texts", "multi"))
    one, other = (student(*teacher, kind="multi", store=tmp_path / name)[1] for name in ("one", "other"))
    assert not other["reused"]
    assert one["id"] == other["id"]


def test_labels_of_further_texts_do_not_count(given, student, tmp_path):
    """An empty label of a text ended the command."""
    texts = given.rows("texts").rows
    bare = write_table(tmp_path / "bare.csv", ["text"], [[row[0]] for row in texts])
    empty = write_table(tmp_path / "empty.csv", ["text", "label"], [[row[0], ""] for row in texts])
    teacher = ("--teacher", given.teachers["single"].path)
    lines = [student(*teacher, "--texts", path)[1] for path in (bare, empty)]
    assert lines[0]["folder"] == lines[1]["folder"]


def test_the_function_takes_the_same_options(given):
    result = prunella.finetune(
        given.path("train"), validation=given.path("validation"), encoder=str(given.folder / "encoder"), epochs=1,
        max_tokens=32, precision="fp32", store=given.store, teacher=given.teachers["single"].path,
        texts=given.path("texts"), teacher_weight=0.7,
    )  # fmt: skip
    assert result.report["teachers"][0]["accuracy"] > 0.5


def test_answers_are_computed_once(given, student):
    teacher = ("--teacher", given.teachers["single"].path, "--texts", given.path("texts"))
    student(*teacher)
    answers = sorted(given.store.glob("answers-*"))
    _, _, err = student(*teacher, "--seed", 3)
    assert sorted(given.store.glob("answers-*")) == answers
    assert "answers of" not in err


def test_a_killed_teacher_goes_on_where_it_stopped(given, tmp_path, monkeypatch):
    (teacher,) = open_teacher(given.teachers["single"].path, pair=False)
    rows = make_texts(count=300, seed=11).rows
    monkeypatch.setattr("models.teachers.answer_batches.KEEP_EVERY", 2)
    batches = []

    def broken(self, rows):
        encoded, answer = load(self, rows)

        def answer_some(some):
            batches.append(len(some))
            if len(batches) == 6:
                raise KeyboardInterrupt
            return answer(some)

        return encoded, answer_some

    load = type(teacher).load
    monkeypatch.setattr(type(teacher), "load", broken)
    with pytest.raises(KeyboardInterrupt):
        answers_of(teacher, rows, tmp_path)
    resumed = answers_of(teacher, rows, tmp_path)
    assert len(batches) == 6 + 10 - 4  # four batches were kept
    monkeypatch.undo()
    np.testing.assert_array_equal(resumed, answers_of(teacher, rows, tmp_path / "other"))


def test_a_folder_of_seeds_teaches_with_all_its_models(given, student, tmp_path):
    store = tmp_path / "series"
    config = CONFIG.model_copy(update={"training": CONFIG.training.model_copy(update={"epochs": 1})})
    splits = Splits(given.rows("learned"), given.rows("validation"))
    best, series = finetune_seeds(str(given.folder / "large"), splits, config, store, 2)
    copy = shutil.copytree(best.folder.path, tmp_path / "copy")
    code, line, err = student("--teacher", copy, "--weak-teacher")
    assert code == 0, err
    assert [entry["models"] for entry in line["teachers"]] == [2]
    both = student("--teacher", given.teachers["single"].path, "--teacher", copy, "--weak-teacher")[1]
    assert [entry["teacher"] for entry in both["teachers"]][2:] == ["mean"]
    other = next(folder for folder in series["folders"] if Path(folder) != best.folder.path)
    shutil.rmtree(other)
    code, _, err = student("--teacher", copy, "--weak-teacher")
    assert code == 2
    assert f"{Path(other).resolve()} is missing" in err


def test_the_loss_is_the_sum_written_out():
    """Two teachers, two rows with labels and one without."""
    task = Task(labels=LABELS)
    rows = [("a",), ("b",), ("c",)]
    draw = np.random.default_rng(0)
    answers = draw.normal(size=(2, 3, 3)).astype(np.float32)
    sources = tuple(Source(str(i), {row: n for n, row in enumerate(rows)}, (answers[i],)) for i in range(2))
    splits = Splits(
        Texts(rows[:2], ["negative", "mixed"], "", "single"), None, texts=Texts(rows[2:], None, "", "single")
    )
    guidance = Guidance(sources, TeachingConfig(weight=0.3, temperature=3))
    logits = draw.normal(size=(3, 3))
    order = [2, 0, 1]

    def model(batch):
        return torch.tensor(logits[order]), []

    loss = guidance.loss_for(task, splits, LossConfig())(model, None, torch.tensor(order))
    soft = np.exp(answers / 3) / np.exp(answers / 3).sum(-1, keepdims=True)
    target, own = soft.mean(0), log_softmax(logits / 3, axis=-1)
    apart = 9 * (target * (np.log(target) - own)).sum(-1)
    on_labels = -log_softmax(logits, axis=-1)[[0, 1], [1, 0]].sum()
    assert float(loss) == pytest.approx(0.3 * apart[:2].sum() + apart[2] + 0.7 * on_labels, rel=1e-5)


def test_pairs_of_texts(given, student, tmp_path):
    parts = {
        name: make_texts(count=count, seed=seed, pair=True) for name, count, seed in (("a", 40, 1), ("b", 30, 2))
    }
    files = {name: write_csv(tmp_path / f"{name}.csv", texts) for name, texts in parts.items()}
    lines = [
        [*row, *(0.8 if label == name else 0.1 for name in LABELS)]
        for texts in parts.values()
        for row, label in zip(texts.rows, texts.require_labels(), strict=True)
    ]
    with (tmp_path / "scores.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "text_pair", *LABELS], *lines])
    make_tiny_family(tmp_path / "foreign", "bert")
    teachers = ("--teacher-scores", tmp_path / "scores.csv", "--teacher", tmp_path / "foreign", "--weak-teacher")
    code, line, err = student(*teachers, train=files["a"], validation=files["b"])
    assert code == 0, err
    assert [entry["teacher"] for entry in line["teachers"]] == [*map(str, (teachers[3], teachers[1])), "mean"]
    assert line["teachers"][1]["accuracy"] == 1
    code, _, err = student("--teacher", given.teachers["single"].path, train=files["a"], validation=files["b"])
    assert code == 2
    assert "reads single texts, and the task of the training rows is one of pairs" in err.splitlines()[-1]


def test_how_long_the_answers_take_is_said_after_a_few_batches(given, tmp_path, monkeypatch, capsys):
    (teacher,) = open_teacher(given.teachers["single"].path, pair=False)
    clock = iter(range(0, 10_000, 400))
    monkeypatch.setattr("models.teachers.answers.perf_counter", lambda: next(clock))
    monkeypatch.setattr("models.teachers.answer_batches.BATCH", 2)
    answers_of(teacher, [(f"a good film {'very ' * 5}",)] * 20, tmp_path)
    err = capsys.readouterr().err
    assert "to 20 texts (logits, float32) take 240 B" in err
    assert "they take about 8 min more" in err  # 400 s for four batches, and five are left


def test_only_the_nearest_of_many_texts_are_learned(given, student, tmp_path):
    lines = [row[0] for row in given.rows("texts").rows]
    (tmp_path / "corpus.txt").write_text("\n".join([*lines, *(f"{n} {n}" for n in range(1000, 1100))]))
    teacher = ("--teacher", given.teachers["single"].path, "--texts", tmp_path / "corpus.txt")
    code, line, err = student(*teacher, "--nearest", 20)
    assert code == 0, err
    assert "20 of 228 rows of" in err
    assert line["steps"] == -(-(32 + 20) // 16)
