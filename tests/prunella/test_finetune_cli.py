"""`prunella finetune` as a person uses it: flags, the last line, what is refused, and kill -9."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from labelled import make_texts, write_csv
from safetensors.torch import load_file, save_file
from tiny import make_tiny_checkpoint
from verbs import run_plain
from watching import steps_saved

from models.store.folder import EVENTS, LOG, PLOT, ModelFolder
from models.train.snapshot import FILE
from prunella.cli import main as cli

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "verb", "folder", "id", "reused", "accuracy", "macro_f1", "micro_f1", "matthews", "rows", "steps", "best_step",
    "seconds", "tokens_per_second", "train_rows_at_max_tokens",
}  # fmt: skip
TEST_KEYS = {"test_accuracy", "test_macro_f1", "test_micro_f1", "test_matthews", "test_rows", "test_sha256"}


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict[str, Path]:
    """An encoder, and files of rows."""
    folder = tmp_path_factory.mktemp("given")
    make_tiny_checkpoint(folder / "encoder")
    parts = {"train": (96, 1), "validation": (48, 2), "test": (40, 3)}
    found = {
        name: write_csv(folder / f"{name}.csv", make_texts(count=rows, seed=seed))
        for name, (rows, seed) in parts.items()
    }
    return found | {"encoder": folder / "encoder"}


@pytest.fixture
def prune(capsys, monkeypatch, given, tmp_path):
    """Run `prunella finetune` in this process; return exit code, stdout and stderr."""

    def run(*arguments: object, **changed: object) -> tuple[int, str, str]:
        return run_plain(capsys, monkeypatch, *command(given, tmp_path / "store", *arguments, **changed))

    return run


def command(given: dict[str, Path], store: Path, *arguments: object, **changed: object) -> list[str]:
    flags = {
        "train": given["train"], "validation": given["validation"], "encoder": given["encoder"], "max-tokens": 32,
        "batch-size": 8, "learning-rate": 2e-3, "precision": "fp32", "epochs": 1, "store": store,
    } | {name.replace("_", "-"): value for name, value in changed.items()}  # fmt: skip
    pairs = (str(part) for name, value in flags.items() if value is not None for part in (f"--{name}", value))
    return ["finetune", *pairs, *map(str, arguments)]


def the_line(out: str) -> dict:
    """What stdout holds: one JSON object on one line, and nothing else."""
    assert out.endswith("\n")
    assert len(out.splitlines()) == 1
    return json.loads(out)


def test_stdout_is_one_line_of_json_with_the_documented_keys(prune, given, tmp_path):
    code, out, err = prune("--test", given["test"], out=tmp_path / "classifier")
    assert code == 0, err
    told = the_line(out)
    assert told.keys() == KEYS | TEST_KEYS
    assert (told["verb"], told["reused"], told["rows"], told["test_rows"]) == ("finetune", False, 48, 40)
    folder = ModelFolder.open(tmp_path / "classifier")
    assert (told["folder"], told["id"]) == (str(folder.path), folder.id)
    report = json.loads((folder.path / "report.json").read_text())
    assert {name: told[name] for name in report if name != "details"} == {
        name: value for name, value in report.items() if name != "details"
    }
    assert all((folder.path / name).exists() for name in (LOG, PLOT, EVENTS))
    again = the_line(prune("--test", given["test"], out=tmp_path / "classifier")[1])
    assert again == told | {"reused": True}


def test_several_seeds_come_with_their_spread(prune):
    code, out, err = prune("--seeds", 2, "--seed", 7)
    assert code == 0, err
    told = the_line(out)
    assert told.keys() == KEYS | {
        "seeds",
        "folders",
        "chosen_seed",
        "spread",
        "choosing_rows",
        "chosen_on_reported_rows",
    }
    assert told["seeds"] == [7, 8]
    assert told["spread"].keys() == {"accuracy", "macro_f1", "micro_f1", "matthews"}
    step = ModelFolder.open(Path(told["folder"])).manifest.lineage[-1]
    assert step.config["training"]["seed"] == told["chosen_seed"]
    assert told["accuracy"] == max(told["spread"]["accuracy"]["values"])


def test_every_flag_of_the_recipe_decides_the_folder(prune):
    flags = {
        "layer_decay": 0.9, "warmup": 0.2, "weight_decay": 0.05, "dropout": 0.2, "label_smoothing": 0.1,
        "accumulate": 2, "patience": 3, "evaluate_every": 4, "metric": "macro_f1", "seed": 5, "batch_size": 16,
        "learning_rate": 1e-3, "epochs": 2, "max_tokens": 24, "precision": "fp32",
    }  # fmt: skip
    code, out, err = prune("--no-freeze-embeddings", "--class-weights", "balanced", **flags)
    assert code == 0, err
    config = ModelFolder.open(Path(the_line(out)["folder"])).manifest.lineage[-1].config
    found = config | config["loss"] | config["training"]
    assert {name: found[name] for name in flags} == flags
    assert (found["freeze_embeddings"], found["class_weights"]) == (False, "balanced")


def test_without_flags_a_recipe_is_chosen_and_said(capsys, monkeypatch, given, tmp_path):
    rows = write_csv(tmp_path / "rows.csv", make_texts(count=300, seed=4))
    flags = ("--train", rows, "--test", given["test"], "--encoder", given["encoder"], "--max-tokens", 32)
    code, out, err = run_plain(
        capsys, monkeypatch, "finetune", *flags, "--minutes", 0.1, "--precision", "fp32", "--store", tmp_path
    )
    assert code == 0, err
    line = the_line(out)
    config = ModelFolder.open(Path(line["folder"])).manifest.lineage[-1].config
    assert (config["training"]["learning_rate"], config["training"]["freeze_embeddings"]) == (5e-4, False)
    assert f"30 of 300 rows of {rows} are held out for validation" in err
    recipe = r"recipe for .*: 40 epochs, learning rate 0\.0005, .*, 0\.1 minutes at most; chosen from 270 rows"
    assert re.search(recipe, err)
    assert str(given["encoder"]) in err
    assert line["test_rows"] == 40


def test_no_progress_stops_and_the_best_step_is_kept(prune):
    still = {"learning_rate": 1e-12, "epochs": 50}  # every evaluation is like the first
    code, out, err = prune("--metric", "accuracy", "--patience", 2, "--evaluate-every", 3, **still)
    assert code == 0, err
    told = the_line(out)
    assert (told["steps"], told["best_step"]) == (9, 3)
    history = json.loads((Path(told["folder"]) / "report.json").read_text())["details"]["history"]
    assert history["stopped_early"]
    assert [found["step"] for found in history["evaluations"]] == [3, 6, 9]


def test_labels_joined_by_a_bar(prune, tmp_path):
    kinds = {name: make_texts("multi", 64, seed) for name, seed in (("train", 1), ("validation", 2))}
    files = {name: write_csv(tmp_path / f"{name}.csv", texts) for name, texts in kinds.items()}
    assert re.search(r",bad\|good$", files["train"].read_text(), re.MULTILINE)
    assert re.search(r",$", files["train"].read_text(), re.MULTILINE)  # a row without a label
    code, out, err = prune("--task", "multi", **files)
    assert code == 0, err
    told = the_line(out)
    task = json.loads((Path(told["folder"]) / "task.json").read_text())
    assert (task["kind"], task["labels"], len(task["thresholds"])) == ("multi", ["bad", "good", "rich"], 3)
    assert {"micro_f1", "macro_f1", "subset_accuracy"} <= told.keys()


def test_columns_may_have_other_names(prune, given, tmp_path):
    for name in ("train", "validation"):
        table = given[name].read_text().replace("text,label", "said,meant", 1)
        (tmp_path / f"{name}.csv").write_text(table)
    files = {name: tmp_path / f"{name}.csv" for name in ("train", "validation")}
    code, out, _ = prune(text_column="said", label_column="meant", **files)
    named = ModelFolder.open(Path(the_line(out)["folder"]))
    assert (code, named.id) == (0, the_line(prune()[1])["id"])  # the same rows are the same work


def test_kill_9_and_the_same_command_again(given, tmp_path, prune):
    arguments = ("--metric", "accuracy", "--evaluate-every", 7, "--snapshot-minutes", 0)
    store = tmp_path / "killed"
    told = [sys.executable, "-m", "prunella", *command(given, store, *arguments, epochs=12)]
    child = subprocess.Popen(told, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and child.poll() is None and steps_in(store) < 10:
        time.sleep(0.005)
    child.kill()
    child.wait()
    reached = steps_in(store)
    assert 10 <= reached < 144, "the kill came too early or too late to say anything"
    assert {path.suffix for path in store.iterdir() if path.is_dir()} == {".partial", ".scratch"}
    again = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, check=True)
    first_bar = re.search(r"(\d+)/144 ", again.stderr)
    assert first_bar
    assert int(first_bar[1]) == reached, "it began anew"
    resumed = the_line(again.stdout)
    assert not resumed["reused"]
    assert [path.name for path in store.iterdir() if path.is_dir()] == [Path(resumed["folder"]).name]
    straight = the_line(prune(*arguments, epochs=12)[1])
    assert Path(straight["folder"]).parent != store
    one, other = (load_file(Path(told["folder"]) / "model.safetensors") for told in (resumed, straight))
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)
    timed = ("seconds", "tokens_per_second", "folder")
    assert {k: v for k, v in resumed.items() if k not in timed} == {
        k: v for k, v in straight.items() if k not in timed
    }


def steps_in(store: Path) -> int:
    return max((steps_saved(path.parent) for path in store.glob(f"*.scratch/{FILE}")), default=0)


def mixed_up(given: dict[str, Path], folder: Path) -> Path:
    """An encoder whose tokenizer knows more tokens than the weights."""
    make_tiny_checkpoint(folder)
    tensors = load_file(folder / "model.safetensors")
    table = "bert.embeddings.word_embeddings.weight"
    tensors[table] = tensors[table][:-3].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": len(tensors[table])}))
    return folder


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"validation": "{tmp}/neutral.csv"}, "has labels that {given}/train.csv has not: neutral"),
        ({"train": "{tmp}/same.csv"}, "{tmp}/same.csv has one label only (good): wanted two or more"),
        ({"train": "{tmp}/same.csv", "validation": None}, "{tmp}/same.csv has one label only (good)"),
        ({"metric": "glory"}, "unknown metric 'glory' for a single task; choose from accuracy, macro_f1"),
        ({"metric": "rmse"}, "unknown metric 'rmse' for a single task"),
        ({"encoder": "{tmp}/mixed"}, "the tokenizer makes 3 tokens beyond the token table of 82 rows"),
        ({"max_tokens": 49}, "--max-tokens is 49, and {given}/encoder has 48 positions"),
        ({"encoder": "{tmp}/nowhere"}, "{tmp}/nowhere does not exist: wanted a folder of a model"),
        ({"validation": "{tmp}/empty.csv"}, "{tmp}/empty.csv has no rows"),
        ({"validation": "{tmp}/bare.csv"}, "and {tmp}/bare.csv has no column 'label': it has text; --label-column"),
        ({"validation": "{tmp}/pairs.csv"}, "{tmp}/pairs.csv has pairs, {given}/train.csv single texts"),
        ({"test": "{tmp}/neutral.csv"}, "{tmp}/neutral.csv has labels that {given}/train.csv has not: neutral"),
        ({"task": "regression"}, "line 2: 'label' holds"),
        ({"patience": 2}, "--patience is 2 and no metric is watched"),
        ({"dropout": 1}, "dropout: Input should be less than 1"),
        ({"class_weights": "some"}, "class_weights: Input should be 'none'"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_2(prune, given, tmp_path, changed, told):
    rows = {
        "neutral": "text,label\nso,neutral\n", "same": "text,label\n" + "so,good\n" * 20, "empty": "text,label\n",
        "bare": "text\nso\n", "pairs": "text,text_pair,label\nso,it was,mixed\n",
    }  # fmt: skip
    for name, content in rows.items():
        (tmp_path / f"{name}.csv").write_text(content)
    mixed_up(given, tmp_path / "mixed")
    places = {"tmp": tmp_path, "given": given["encoder"].parent}
    code, out, err = prune(
        **{name: value.format(**places) if isinstance(value, str) else value for name, value in changed.items()}
    )
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if not line.endswith("texts are split as transformers splits them")]
    assert len(lines) == 1, err
    assert err.startswith("prunella: ")
    assert told.format(**places) in err


def test_an_out_folder_that_holds_something_else_is_refused_before_any_work(prune, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    code, out, err = prune(out=tmp_path / "mine")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == (
        f"prunella: {tmp_path / 'mine'} exists and is not a finished folder: choose another --out"
    )
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    assert not (tmp_path / "store").exists()


def test_an_out_folder_that_holds_another_result_is_left_alone(prune, tmp_path):
    first = the_line(prune(out=tmp_path / "other")[1])
    code, out, err = prune(out=tmp_path / "other", seed=1)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"prunella: {tmp_path / 'other'} exists and is not this result")
    assert ModelFolder.open(tmp_path / "other").id == first["id"]
    assert the_line(prune(seed=1)[1])["reused"]  # the work is not lost


def test_a_loss_that_is_no_number_ends_the_process_with_1(given, tmp_path):
    told = [sys.executable, "-m", "prunella", *command(given, tmp_path / "store", learning_rate=1e30)]
    done = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, env=os.environ, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"prunella: the loss is (nan|inf) at step \d+, rows \[[\d, ]+\]: look at these rows, or lower .*",
        done.stderr.splitlines()[-1],
    )
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "store").glob("finetune-*/manifest.json"))


@pytest.mark.parametrize("verb", ["finetune", "pretrain"])
def test_the_page_on_training_names_every_flag_and_key(verb):
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    options = typer.main.get_command(cli.app).commands[verb].params
    flags = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    missing = sorted(flag for flag in flags if not re.search(rf"{flag}(?![\w-])", page))
    assert not missing
    keys = KEYS | {"test_rows", "test_sha256", "seeds", "folders", "chosen_seed", "spread", "micro_f1",
                   "subset_accuracy", "spearman", "pearson", "rmse", "held_out_loss", "masked_accuracy",
                   "hidden_tokens", "perplexity", "held_out_loss_before", "tokens_seen"}  # fmt: skip
    assert not sorted(key for key in keys if f"`{key}`" not in page)
