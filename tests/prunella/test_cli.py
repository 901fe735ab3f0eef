import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serving import make_tiny_bundle
from tiny import make_tiny_checkpoint, make_tiny_family, tiny_texts
from typer.main import get_command
from verbs import run, run_plain

from compress.best_bundle import Compressed
from models.store.folder import ModelFolder
from models.store.results import Delivered
from prunella.cli import main, output

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    data = tiny_texts(48)
    lines = [json.dumps({"text": row[0], "label": label}) for row, label in zip(data.rows, data.labels, strict=True)]
    (folder / "data.jsonl").write_text("\n".join(lines))
    bundle = make_tiny_bundle(folder / "store")
    return folder, bundle, next((folder / "store").glob("finetune-*"))


def test_the_verbs_chain_from_encoder_to_bundle(made, tmp_path, capsys, monkeypatch, byte_clock):
    data, store = made[0] / "data.jsonl", tmp_path / "store"
    make_tiny_checkpoint(tmp_path / "encoder", layers=12)
    code, tuned, _ = run(
        capsys, monkeypatch, "finetune", "--train", data, "--encoder", tmp_path / "encoder", "--epochs", 4,
        "--max-tokens", 32, "--store", store,
    )  # fmt: skip
    assert code == 0
    assert 0 <= tuned["accuracy"] <= 1
    compress = (
        "compress", tuned["folder"], "--train", data, "--validation", data, "--size-mb", 0.3, "--tolerance", 0.05,
        "--epochs", 1, "--max-loss", 100, "--weak-teacher", "--store", store, "--out", tmp_path / "out",
    )  # fmt: skip
    code, made_bundle, err = run(capsys, monkeypatch, *compress)
    assert code == 0, err
    assert re.search(r"out: [\d.]+ times as fast as the full model in fp32 \(95 % interval .* MB, accuracy", err)
    assert f"; prunella serve {made_bundle['folder']}\n" in err
    stages = [step.stage for step in ModelFolder.open(Path(made_bundle["folder"])).manifest.lineage]
    assert stages == ["finetune", "trim", "prune", "heal", "bundle"]
    assert {"loss_interval", "loss_is_inside", "speedup", "p50_ms", "bytes", "architecture"} <= made_bundle.keys()
    assert (Path(made_bundle["report"]) / "pareto.svg").stat().st_size > 1000
    code, again, _ = run(capsys, monkeypatch, *compress)
    assert (code, again["reused"], again["id"]) == (0, True, made_bundle["id"])
    code, found, _ = run(capsys, monkeypatch, "evaluate", made_bundle["folder"], "--data", data)
    assert (code, found["rows"]) == (0, 48)


def test_every_command_prints_how_long_it_took(made, tmp_path, capsys, monkeypatch):
    classifier = made[2]
    results = [run(capsys, monkeypatch, *command) for command in (
        ("inspect", classifier), ("store", "list", "--store", tmp_path),
        ("store", "clean", "--partial", "--store", tmp_path),
    )]  # fmt: skip
    for code, printed, err in results:
        assert code == 0, err
        assert 0 <= printed["seconds"] < 600
    monkeypatch.setattr(output, "_began", [time.perf_counter() - 5])
    output.show({"verb": "compress"})
    assert json.loads(capsys.readouterr().out)["seconds"] == pytest.approx(5, abs=1)
    output.show({"verb": "finetune", "seconds": 1.5})  # a command's own time is kept
    assert json.loads(capsys.readouterr().out)["seconds"] == 1.5


def swapped(lines: str) -> str:
    """Return rows in which each label is the other."""
    return lines.replace("positive", "third").replace("negative", "positive").replace("third", "negative")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("finetune", "--train", "nowhere.csv"), "cannot read nowhere.csv"),
        (("finetune", "--train", "{data}", "--encoder", "{empty}"), "wanted a Hugging Face model folder"),
        (("finetune", "--train", "{one}", "--encoder", "{encoder}"), "one label only"),
        (("finetune", "--train", "{data}", "--epochs", "0"), "epochs"),
        (("evaluate", "{empty}", "--data", "{data}"), "has no config.json: wanted a Hugging Face model folder"),
        (("evaluate", "{bundle}", "--data", "{other}"), "'neutral' is not the model's"),
        (("evaluate", "{bundle}", "--data", "{unlabelled}"), "label"),
        (("compress", "{bundle}", "--train", "{data}"), "wanted a classifier folder"),
        (("compress", "{empty}", "--train", "{data}"), "no config.json"),
        (("compress", "{classifier}", "--train", "{data}", "--speedup", "0.5"), "speed-up of 0.5"),
        (("compress", "{classifier}", "--train", "{data}", "--speedup", "2", "--size-mb", "3"), "wanted one target"),
        (("compress", "{classifier}", "--train", "{data}", "--hidden-width", "narrow"), "valid integer"),
        (("compress", "{classifier}", "--train", "{data}", "--family", "2,many"), "--family"),
        (("compress", "{classifier}", "--train", "{data}", "--size-mb", "0"), "wanted more than 0"),
        (("compress", "{classifier}", "--train", "{data}", "--max-loss", "-1"), "--max-loss"),
        (("compress", "{classifier}", "--train", "{data}", "--max-loss", "nan"), "--max-loss is nan"),
        (("compress", "{classifier}", "--train", "{data}", "--speedup", "inf"), "speed-up of inf"),
        (("compress", "{classifier}", "--train", "{data}", "--out", "{empty}"), "not a finished folder"),
        (("finetune", "--train", "{data}", "--encoder", "{encoder}", "--out", "{empty}"), "not a finished folder"),
        (("compress", "{classifier}", "--train", "{data}", "--threads", "9999"), "--threads is 9999, and"),
        (("compress", "{classifier}", "--train", "{data}", "--mode", "quick"), "--mode"),
        (("compress", "{classifier}", "--train", "{data}", "--mode", "instant", "--epochs", "2"), "trains nothing"),
        (("compress", "{classifier}", "--train", "{data}", "--mode", "instant", "--augment", "2"), "out --augment"),
        (
            ("compress", "{classifier}", "--train", "{other}", "--validation", "{data}"),
            "'neutral' is not the model's",
        ),
        (
            ("compress", "{classifier}", "--train", "{other}", "--texts", "{data}", "--validation", "{data}"),
            "'neutral' is not the model's",
        ),
        (
            ("compress", "{classifier}", "--train", "{short}", "--validation", "{data}"),
            "a student would not learn from texts of the length that is served; give longer ones with --texts",
        ),
        (
            ("compress", "{classifier}", "--train", "{data}", "--validation", "{swapped}"),
            "or fine-tune it better, or pass --weak-teacher to continue",
        ),
        (("bench", "{bundle}", "--data", "{data}", "--batch", "many"), "whole numbers"),
        (("bench", "{bundle}", "--data", "{data}", "--store", "{empty}", "--reference", "{empty}"), "manifest"),
        (("publish", "{classifier}"), "not a bundle"),
        (("loadtest", "--url", "http://127.0.0.1:1"), "no server answers"),
        (("serve", "nothing:here"), "neither a bundle folder nor a tag"),
        (("serve", "{bundle}", "--port", "99999"), "65535"),
        (("bench", "{encoder}", "--data", "{data}"), "is a Hugging Face folder, not a bundle: `prunella compress`"),
        (
            ("evaluate", "{empty}/nowhere", "--data", "{data}"),
            "nowhere does not exist: wanted a folder of a model",
        ),
        (("evaluate", "{data}", "--data", "{data}"), "data.jsonl is a file: wanted a folder of a model"),
        (("inspect", "{empty}/nowhere"), "nowhere does not exist: wanted a folder of a model"),
        (("inspect", "{data}"), "data.jsonl is a file: wanted a folder of a model"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_2(made, tmp_path, capsys, monkeypatch, arguments, told):
    folder, bundle, classifier = made
    (tmp_path / "empty").mkdir()
    make_tiny_checkpoint(tmp_path / "encoder")
    files = {
        "one": '{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}\n' * 10,
        "other": '{"text": "a", "label": "neutral"}',
        "unlabelled": '{"text": "a"}',
        "short": '{"text": "good"}\n' * 40,
        "swapped": swapped((folder / "data.jsonl").read_text()),
    }
    for name, content in files.items():
        (tmp_path / f"{name}.jsonl").write_text(content)
    places = {name: tmp_path / f"{name}.jsonl" for name in files} | {
        "data": folder / "data.jsonl", "bundle": bundle, "classifier": classifier,
        "empty": tmp_path / "empty", "encoder": tmp_path / "encoder",
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    code, result, err = run(capsys, monkeypatch, *(a.format(**places) for a in arguments))
    assert (code, result) == (2, None)
    assert told in err
    assert "Traceback" not in err


def test_bench_takes_a_hugging_face_folder_as_the_reference(made, tmp_path, capsys, monkeypatch):
    folder, bundle, classifier = made
    theirs = tmp_path / "theirs"
    shutil.copytree(classifier, theirs)
    for name in ("manifest.json", "task.json", "architecture.json", "report.json"):
        (theirs / name).unlink()
    given = []
    monkeypatch.setattr("bench.report.build.run_bench", lambda inputs, *_: given.append(inputs) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(
            capsys, monkeypatch, "bench", bundle, "--data", folder / "data.jsonl", "--reference", theirs, "--store",
            tmp_path / "store",
        )  # fmt: skip
    assert given[0].reference.manifest.lineage[-1].stage == "import"


def test_ctrl_c_is_one_sentence_and_exit_130(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("models.data.texts.read_texts", interrupted)
    assert run(capsys, monkeypatch, "finetune", "--train", "a.csv") == (
        130, None, "prunella: interrupted; the same command goes on from here\n"
    )  # fmt: skip
    monkeypatch.setattr("service.model.bundle.Bundle.open", interrupted)
    assert run(capsys, monkeypatch, "publish", "a") == (130, None, "prunella: interrupted\n")


def test_a_last_line_that_cannot_be_written_names_the_result(made):
    command = [sys.executable, "-m", "prunella", "inspect", str(made[1])]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    told = f"the last line cannot be written to stdout (No space left on device), and the result is in {made[1]}"
    assert done.stderr.splitlines()[-1] == f"prunella: {told}"


def test_a_killed_stage_leaves_nothing_that_opens_and_runs_again(made, tmp_path):
    make_tiny_checkpoint(tmp_path / "encoder")
    store = tmp_path / "store"
    command = [sys.executable, "-m", "prunella", "finetune", "--train", str(made[0] / "data.jsonl"), "--encoder"]
    command += [str(tmp_path / "encoder"), "--epochs", "2000", "--max-tokens", "32", "--store", str(store)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(store.glob("*.partial")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert [p.suffix for p in store.iterdir() if p.is_dir()] == [".partial"]
    command[command.index("2000")] = "1"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    folder = ModelFolder.open(Path(json.loads(done.stdout.splitlines()[-1])["folder"]))
    assert folder.manifest.lineage[-1].stage == "finetune"


def test_every_option_of_every_command_is_explained():
    def commands(command):
        inner = getattr(command, "commands", {}).values()
        return [found for each in inner for found in commands(each)] if inner else [command]

    unexplained = [
        f"{command.name} {option.name}"
        for command in commands(get_command(main.app)) for option in command.params if not option.help
    ]  # fmt: skip
    assert unexplained == []


def test_the_first_help_says_where_to_begin_and_cuts_no_sentence(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run_plain(capsys, monkeypatch, "--help")
    assert code == 0
    assert "  prunella compress MODEL --train train.csv --validation dev.csv --out bundle\n" in out
    assert "..." not in out.partition("Commands:")[2]
    assert max(map(len, out.splitlines())) <= 84


def test_the_help_of_serve_fits_on_one_screen_and_explains_each_option(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run_plain(capsys, monkeypatch, "serve", "--help")
    assert code == 0
    assert len(out.splitlines()) <= 40
    for option in ("bundle", "--device", "--port", "--host", "--name", "--require-device"):
        assert re.search(rf"^ +{option}[^\n]*\n? +[a-z]", out, re.MULTILINE), option
    assert "docs/serving.md" in out


@pytest.mark.parametrize("content", ["nothing", "a readme", "checkpoints", "nowhere"])
def test_every_verb_says_the_same_of_a_folder_without_a_model(tmp_path, capsys, monkeypatch, content):
    folder = tmp_path / "in"
    if content != "nowhere":
        folder.mkdir()
    if content == "a readme":
        (folder / "README.md").write_text("a model")
    if content == "checkpoints":
        make_tiny_checkpoint(folder / "checkpoint-3")
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "b"}\n')
    rows, store = tmp_path / "rows.jsonl", ("--store", tmp_path / "store")
    verbs = (
        ("export", folder, *store), ("evaluate", folder, "--data", rows, *store),
        ("quantize", folder, "--calibration", rows, *store),
    )  # fmt: skip
    hint = f"; it holds 1 checkpoints of a training, the newest is {folder / 'checkpoint-3'}"
    message = f"{folder} has no config.json: wanted a Hugging Face model folder{hint * (content == 'checkpoints')}"
    if content == "nowhere":
        message = f"{folder} does not exist: wanted a folder of a model"
    for arguments in verbs:
        code, _, err = run(capsys, monkeypatch, *arguments)
        assert code == 2
        assert message in err
    code, facts, err = run(capsys, monkeypatch, "inspect", folder)
    assert message in (err if content == "nowhere" else facts["problems"][0]["problem"])


@pytest.mark.parametrize(("family", "positions"), [("bert", 3), ("roberta", 5)])
def test_a_model_of_fewer_positions_than_any_text_has_is_refused(tmp_path, capsys, monkeypatch, family, positions):
    make_tiny_family(tmp_path / "in", family, max_position_embeddings=positions)
    _, facts, _ = run(capsys, monkeypatch, "inspect", tmp_path / "in")
    code, _, err = run(capsys, monkeypatch, "export", tmp_path / "in", "--store", tmp_path / "store")
    assert code == 2
    assert facts["can"] == []
    for said in (facts["problems"][0]["problem"], err):
        assert "asked to cut texts at 3 tokens (3 positions): wanted 4 or more" in said


@pytest.mark.parametrize("missed", [None, "the bundle is written, but the target was missed: measured 3.5x"])
def test_a_compression_that_misses_its_target_prints_its_result_and_ends_with_1(
    tmp_path, capsys, monkeypatch, missed
):
    report = {
        "asked": "4x", "target_met": missed is None, "folder": str(tmp_path), "loss_is": "accuracy", "accuracy": 0.9,
        "reference_accuracy": 0.91, "speedup": {"ort_fp32": 3.5}, "bytes": 12_000_000,
    }  # fmt: skip
    delivered = Delivered(folder=str(tmp_path), id="a", reused=False, report=report)
    monkeypatch.setattr("compress.run.compress", lambda *_, **__: Compressed(delivered=delivered, missed=missed))
    code, told, err = run(capsys, monkeypatch, "compress", "model", "--train", "texts.csv")
    assert (code, told["target_met"]) == (0 if missed is None else 1, missed is None)
    summary, *rest = err.strip().splitlines()
    assert "3.50 times as fast as the full model in fp32, 12.0 MB, accuracy 90.0% instead of 91.0%" in summary
    assert rest == ([] if missed is None else [f"prunella: {missed}"])
