"""`prunella inspect`: any folder is named, with what can be done with it and what stands in the way."""

import json

import pytest
from tiny import TINY_FAMILIES, make_tiny_checkpoint, make_tiny_family
from verbs import run

pytest_plugins = ["serving"]  # the fixture tiny_bundle


def inspect(capsys, monkeypatch, folder):
    code, result, error = run(capsys, monkeypatch, "inspect", folder)
    assert code == 0, error
    return result, error


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_a_classifier_of_each_family(tmp_path, capsys, monkeypatch, family):
    theirs = make_tiny_family(tmp_path, family)
    result, error = inspect(capsys, monkeypatch, tmp_path)
    assert (result["kind"], result["family"], result["head"]) == ("Hugging Face folder", family, 3)
    assert (result["task"], result["labels"]) == ("single", ["LABEL_0", "LABEL_1", "LABEL_2"])
    assert result["parameters"] == sum(parameter.numel() for parameter in theirs.parameters())
    assert (result["problems"], "compress" in result["can"]) == ([], True)
    assert "can: prunella compress" in error
    assert "outputs of the head: 3\n" in error
    assert "pruned: no\n" in error


def test_a_bare_encoder(tmp_path, capsys, monkeypatch):
    from transformers import AutoModel

    make_tiny_family(tmp_path / "classifier", "bert")
    AutoModel.from_pretrained(tmp_path / "classifier").save_pretrained(tmp_path)
    (tmp_path / "classifier" / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    result, _ = inspect(capsys, monkeypatch, tmp_path)
    assert (result["head"], result["can"]) == (None, ["finetune --encoder", "pretrain --encoder"])


def test_a_bundle(tiny_bundle, capsys, monkeypatch):
    result, _ = inspect(capsys, monkeypatch, tiny_bundle)
    assert (result["kind"], result["problems"]) == ("bundle", [])
    assert {"serve", "score", "plan"} <= set(result["can"])
    assert result["default"]["cpu"] in result["variants"]
    assert result["labels"]


@pytest.mark.parametrize(
    ("damage", "part", "message"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer", "no tokenizer.json and no vocabulary"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x"), "weights", "cannot be read as weights"),
        (lambda f: (f / "config.json").write_text("{"), "config", "not valid JSON"),
        (lambda f: (f / "config.json").write_text(json.dumps({"model_type": "gpt2"})), "config", "supported are"),
        (lambda f: (f / "config.json").unlink(), "config", "has no config.json"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest", "manifest.json"),
    ],
)
def test_what_is_wrong_is_said_with_its_part(tmp_path, capsys, monkeypatch, damage, part, message):
    make_tiny_checkpoint(tmp_path)
    damage(tmp_path)
    result, error = inspect(capsys, monkeypatch, tmp_path)
    assert result["can"] == []
    assert [problem["part"] for problem in result["problems"]] == [part]
    assert message in result["problems"][0]["problem"]
    assert f"WARNING: {part}: " in error
