"""Folders that bring Python code: it is never run and nobody is asked to run it; a known class is read without it."""

import ast
import builtins
import json
from pathlib import Path

import pytest
import torch
from test_boundaries import ROOT
from tiny import make_tiny_family

from models.checkpoint import load_checkpoint, read_architecture
from models.errors import FolderError, InputError
from models.teachers.teacher import _open_transformers
from models.tokenizer import Tokenizer, read_backend


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch):
    def refuse(*_):
        raise AssertionError("a question was asked")

    monkeypatch.setattr(builtins, "input", refuse)


def add_code(folder, file, **settings):
    (folder / "code.py").write_text(f"from pathlib import Path\nPath({str(folder / 'ran')!r}).touch()\n")
    path = folder / file
    config = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(config | settings))


MODEL = {"AutoModelForSequenceClassification": "code.M", "AutoConfig": "code.C"}


def test_a_class_of_transformers_is_read_without_the_code(tmp_path, capsys):
    make_tiny_family(tmp_path, "bert")
    before = load_checkpoint(tmp_path).state_dict()
    add_code(tmp_path, "config.json", auto_map=MODEL)
    assert all(torch.equal(before[name], tensor) for name, tensor in load_checkpoint(tmp_path).state_dict().items())
    Tokenizer.open(tmp_path, 40)
    assert "it is not run; the model is read as the class BertForSequenceClassification" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "classes",
    [["M"], [], None, ["RobertaForSequenceClassification"], ["BertForManyTasks"], ["BertForMyForMaskedLM"]],
)
def test_another_class_is_refused(tmp_path, classes):
    make_tiny_family(tmp_path, "bert")
    add_code(tmp_path, "config.json", auto_map=MODEL, architectures=classes)
    with pytest.raises(InputError, match=r"code of its own \(auto_map: code\.M, code\.C\), which is never run"):
        read_architecture(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("code", [["code.Slow", None], [None, "code.Fast"], "code.T"])
def test_a_tokenizer_with_code_is_its_tokenizer_json_or_refused(tmp_path, capsys, file, code):
    make_tiny_family(tmp_path, "bert")
    before = read_backend(tmp_path).to_str()
    add_code(tmp_path, file, auto_map={"AutoTokenizer": code}, tokenizer_class="T")
    assert read_backend(tmp_path).get_vocab() == json.loads(before)["model"]["vocab"]
    assert "the tokenizer is Python code of its own (code." in capsys.readouterr().err
    (tmp_path / "tokenizer.json").rename(tmp_path / "vocab.txt")
    with pytest.raises(
        FolderError, match=r"its tokenizer is Python code of its own \(code\.\w+\), which is never run"
    ):
        read_backend(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_teacher_with_code_is_refused(tmp_path):
    make_tiny_family(tmp_path, "bert")
    add_code(tmp_path, "config.json", auto_map=MODEL | {"AutoTokenizer": ["code.T", None]}, model_type="unknown")
    with pytest.raises(FolderError, match="which is never run"):
        _open_transformers(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_every_call_that_could_run_code_says_that_it_must_not():
    calls = []
    for package in ("bench", "compress", "export", "models", "prunella", "service", "tools"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                text = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
                if text.endswith(".from_pretrained") and ("Auto" in text or "tokenizer_class" in text):
                    calls.append((Path(path).name, {key.arg: ast.unparse(key.value) for key in node.keywords}))
    assert len(calls) > 5
    assert [name for name, keys in calls if keys.get("trust_remote_code") != "False"] == []
