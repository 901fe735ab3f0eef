"""Students of teachers: what they learn, and from which folders and files."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled import make_texts, write_csv
from safetensors.torch import load_file, save_file
from scipy.special import log_softmax
from teaching import CONFIG, KINDS, LABELS, Given, write_table
from tiny import make_tiny_family, write_bpe_tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

import prunella
from models.checkpoint import load_checkpoint
from models.data.texts import Texts
from models.errors import InputError
from models.finetuning.finetune import Splits
from models.finetuning.finetune_config import TeachingConfig
from models.finetuning.losses import LossConfig
from models.finetuning.predict import predict
from models.finetuning.seeds import finetune_seeds
from models.task import Task
from models.teachers.answers import answers_of
from models.teachers.guidance import Guidance, Source
from models.teachers.matching import check_agreement, match_labels
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


def write_gpt2(folder: Path) -> None:
    """A family that Prunella cannot prune, with a tokenizer."""
    folder.mkdir()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = write_bpe_tokenizer(folder, special)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "model_max_length": 40}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocabulary, n_embd=32, n_layer=1, n_head=2, n_positions=48, pad_token_id=1,
        id2label=dict(enumerate(LABELS)), label2id={name: i for i, name in enumerate(LABELS)},
    )  # fmt: skip
    GPT2ForSequenceClassification(config).save_pretrained(folder)


def write_other(folder: Path, name: str) -> None:
    """A classifier whose model takes no token types, or whose tokenizer cannot pad, or knows no limit of tokens."""
    folder.mkdir()
    vocabulary = write_bpe_tokenizer(folder, ["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>"}
    special = {"vocab_size": vocabulary, "num_labels": 3, "bos_token_id": 0, "eos_token_id": 2}
    if name == "t5":
        model = T5ForSequenceClassification(T5Config(
            **special, pad_token_id=1, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
            decoder_start_token_id=1,
        ))  # fmt: skip
    elif name == "bart":
        model = BartForSequenceClassification(BartConfig(
            **special, pad_token_id=1, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64,
            decoder_start_token_id=2,
        ))  # fmt: skip
    else:
        sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 48}
        model = GPT2ForSequenceClassification(GPT2Config(**special, **sizes))
        if name == "gpt2-unpadded":
            tokenizer.pop("pad_token")
    tokenizer |= {"model_max_length": 512} if name.startswith("gpt2") else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    model.save_pretrained(folder)


def test_any_folder_of_transformers_teaches(given, tmp_path):
    write_gpt2(tmp_path / "gpt2")
    make_tiny_family(tmp_path / "bert", "bert")
    others = ("t5", "bart", "gpt2-unpadded", "gpt2-pads-in-the-tokenizer-only")
    torch.manual_seed(0)
    for name in others:
        write_other(tmp_path / name, name)
    rows = given.rows("train").rows
    for name in ("gpt2", "bert", *others):
        (teacher,) = open_teacher(tmp_path / name, pair=False)
        answers = answers_of(teacher, rows, given.store)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / name).eval()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        with torch.inference_mode():
            unwanted = {"return_token_type_ids": False} if name in ("t5", "bart") else {}
            wanted = [
                model(**tokenizer(row[0], return_tensors="pt", **unwanted)).logits[0].numpy() for row in rows[:20]
            ]
        np.testing.assert_allclose(answers[:20], wanted, atol=1e-4)


def test_a_text_longer_than_the_positions_is_cut_whatever_the_tokenizer_says(tmp_path):
    write_other(tmp_path / "gpt2", "gpt2-unpadded")
    (teacher,) = open_teacher(tmp_path / "gpt2", pair=False)
    (encoded,), answer = teacher.load([("a good film " * 40,)])
    assert len(encoded.ids) <= 48
    with torch.inference_mode():
        assert np.isfinite(answer([encoded])).all()


def test_labels_in_another_order_are_matched_by_name(given, student, tmp_path):
    """The teacher as transformers reads it, with its outputs in reverse order: the student is the same."""
    own, foreign = given.teachers["single"].path, tmp_path / "foreign"
    foreign.mkdir()
    shutil.copyfile(own / "tokenizer.json", foreign / "tokenizer.json")
    tensors = load_file(own / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name].flip(0).contiguous()
    save_file(tensors, foreign / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((own / "config.json").read_text())
    names = LABELS[::-1]
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    (foreign / "config.json").write_text(json.dumps(config))
    lines = [student("--teacher", folder)[1] for folder in (own, foreign)]
    first, second = (load_checkpoint(Path(line["folder"])).state_dict() for line in lines)
    assert all(torch.allclose(first[name], second[name], atol=1e-3) for name in first)
    assert lines[0]["teachers"][0]["accuracy"] == lines[1]["teachers"][0]["accuracy"]


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


def test_labels_without_names_are_taken_by_position_and_said(given, student, tmp_path):
    make_tiny_family(tmp_path / "foreign", "bert")
    code, _, err = student("--teacher", tmp_path / "foreign", "--weak-teacher")
    assert code == 0, err
    assert "names its labels LABEL_0 to LABEL_2: they are taken for mixed, negative, positive" in err
    assert "WARNING: the teacher" in err


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


def test_a_text_has_the_same_answer_alone_and_in_a_batch(given):
    (teacher,) = open_teacher(given.teachers["single"].path, pair=False)
    rows = given.rows("texts").rows[:40]
    together = answers_of(teacher, rows, given.store)
    alone = np.concatenate([answers_of(teacher, [row], given.store) for row in rows[:5]])
    np.testing.assert_allclose(together[:5], alone, atol=1e-5)


def test_how_long_the_answers_take_is_said_after_a_few_batches(given, tmp_path, monkeypatch, capsys):
    (teacher,) = open_teacher(given.teachers["single"].path, pair=False)
    clock = iter(range(0, 10_000, 400))
    monkeypatch.setattr("models.teachers.answers.perf_counter", lambda: next(clock))
    monkeypatch.setattr("models.teachers.answer_batches.BATCH", 2)
    answers_of(teacher, [(f"a good film {'very ' * 5}",)] * 20, tmp_path)
    err = capsys.readouterr().err
    assert "to 20 texts (logits, float32) take 240 B" in err
    assert "they take about 8 min more" in err  # 400 s for four batches, and five are left


def test_a_teacher_is_compared_with_labels_before_it_answers_the_other_texts(given, student, tmp_path):
    make_tiny_family(tmp_path / "random", "bert")
    code, _, err = student("--teacher", tmp_path / "random", "--texts", given.path("texts"), store=tmp_path)
    assert code == 2
    assert "agrees with" in err
    labelled = {*given.rows("train").rows, *given.rows("validation").rows}
    answered = [line for line in err.splitlines() if f"answers of {tmp_path / 'random'} to" in line]
    assert [line.split(" texts ")[0].split()[-1] for line in answered] == [str(len(labelled))]


def test_names_that_differ_in_case_are_the_same_labels_and_it_is_said(capsys):
    task = Task(labels=("negative", "positive"))
    assert match_labels("a", ["POSITIVE", "NEGATIVE"], task) == [1, 0]
    assert "writes its labels POSITIVE, NEGATIVE" in capsys.readouterr().err
    nameless = Task(labels=("LABEL_0", "LABEL_1"))
    assert match_labels("a", ["no", "yes"], nameless, "the model m") == [0, 1]
    assert "beside the teacher a, the labels of the model m are LABEL_0 to LABEL_1: they are taken for no, yes" in (
        capsys.readouterr().err
    )


def test_numbered_labels_and_labels_with_spaces_are_matched_in_any_order(capsys):
    task = Task(labels=LABELS)
    assert match_labels("T", ("LABEL_2", "LABEL_0", "LABEL_1"), task) == [1, 2, 0]
    assert "taken for mixed, negative, positive, in this order" in capsys.readouterr().err
    assert match_labels("T", LABELS, Task(labels=("LABEL_2", "LABEL_0", "LABEL_1"))) == [2, 0, 1]
    assert match_labels("T", (" positive", "mixed ", "negative"), task) == [1, 2, 0]


def test_answers_that_are_only_by_chance_better_than_the_most_frequent_label_are_refused(capsys):
    draw = np.random.default_rng(0)
    rows, task = [(f"text {i}",) for i in range(200)], Task(labels=("no", "yes"))
    truth = np.array([i % 2 for i in range(200)])
    labelled = Texts(rows, [task.labels[i] for i in truth], "rows.csv")
    guesses = (draw.integers(0, 2, 200) for _ in range(100))
    answers = next(one for one in guesses if 0.5 < (one == truth).mean() < 0.54)
    with pytest.raises(InputError, match=r"agrees with 5\d\.\d% of the labels .* in random order are as good in"):
        check_agreement("T", task, labelled, np.eye(2)[answers], weak=False)
    better = np.where(draw.random(200) < 0.3, truth, answers)
    check_agreement("T", task, labelled, np.eye(2)[better], weak=False)
    assert "the teacher T agrees with" in capsys.readouterr().err


def test_only_the_nearest_of_many_texts_are_learned(given, student, tmp_path):
    lines = [row[0] for row in given.rows("texts").rows]
    (tmp_path / "corpus.txt").write_text("\n".join([*lines, *(f"{n} {n}" for n in range(1000, 1100))]))
    teacher = ("--teacher", given.teachers["single"].path, "--texts", tmp_path / "corpus.txt")
    code, line, err = student(*teacher, "--nearest", 20)
    assert code == 0, err
    assert "20 of 228 rows of" in err
    assert line["steps"] == -(-(32 + 20) // 16)
