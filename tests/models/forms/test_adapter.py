"""Folders of adapters (LoRA): merged by peft with their local base, with the modules that were trained whole."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from tiny import make_tiny_family, tiny_texts
from verbs import run

from compress.inputs.source import open_source
from models.checkpoint import load_checkpoint
from models.classifier import TensorBatch
from models.errors import FolderError, InputError, MissingExtraError
from models.forms.adapter import is_adapter, resolve_model
from models.task import Task
from models.tokenizer import Tokenizer

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
TARGETS = {"bert": ["query", "value"], "distilbert": ["q_lin", "v_lin"], "roberta": ["query", "value", "dense"]}


def make_adapter(folder, family="bert", labels=3, base_labels=2, base="../base", **settings):
    """Write a base and a random adapter of it, as peft does; return the adapted model and texts."""
    make_tiny_family(folder / "base", family, base_labels)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder / "base", num_labels=labels, ignore_mismatched_sizes=True, attn_implementation="eager"
    )
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=TARGETS[family], **settings)
    adapted = peft.get_peft_model(model, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)

    adapted.save_pretrained(folder / "adapter")
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))
    return adapted.eval()


def logits_of(adapted, batch):
    with torch.no_grad():
        return adapted(input_ids=batch.ids, attention_mask=batch.mask).logits.numpy()


@pytest.mark.parametrize("family", TARGETS)
@pytest.mark.parametrize("labels", [1, 2, 3])
def test_a_merged_model_answers_as_the_adapted_one(tmp_path, family, labels):
    adapted = make_adapter(tmp_path, family, labels)
    folder = resolve_model(tmp_path / "adapter", None, tmp_path / "store")
    opened = open_source(folder, tmp_path / "store", max_tokens=40)
    batch = TensorBatch(Tokenizer.open(opened.path, 40).batch(tiny_texts(9).rows))
    with torch.no_grad():
        answers = load_checkpoint(opened.path)(batch)[0].numpy()
    np.testing.assert_allclose(answers, logits_of(adapted, batch), atol=1e-4)
    assert resolve_model(tmp_path / "adapter", None, tmp_path / "store") == folder
    assert Task.read(opened.path / "task.json").kind == ("regression" if labels == 1 else "single")


def test_the_pooler_may_be_trained_too(tmp_path):
    adapted = make_adapter(tmp_path, modules_to_save=["classifier", "pooler"])
    folder = resolve_model(tmp_path / "adapter", None, tmp_path / "store")
    batch = TensorBatch(Tokenizer.open(folder, 40).batch(tiny_texts(9).rows))
    with torch.no_grad():
        np.testing.assert_allclose(load_checkpoint(folder)(batch)[0].numpy(), logits_of(adapted, batch), atol=1e-4)


def test_labels_of_the_adapters_config_are_kept(tmp_path):
    make_adapter(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "base")
    config.id2label = {0: "x", 1: "y", 2: "z"}
    config.save_pretrained(tmp_path / "adapter")
    folder = resolve_model(tmp_path / "adapter", None, tmp_path / "store")
    assert Task.read(open_source(folder, tmp_path / "store").path / "task.json").labels == ("x", "y", "z")


def test_the_verbs_take_the_folder_and_a_base(tmp_path, capsys, monkeypatch):
    make_adapter(tmp_path, base="somebody/model")
    rows = tmp_path / "rows.jsonl"
    lines = [json.dumps({"text": row[0], "label": i % 3}) for i, row in enumerate(tiny_texts(9).rows)]
    rows.write_text("\n".join(lines))
    flags = ("evaluate", tmp_path / "adapter", "--data", rows, "--store", tmp_path / "store")
    code, _, err = run(capsys, monkeypatch, *flags)
    assert code == 2
    assert "is an adapter of 'somebody/model', which is not a local folder: give --base FOLDER" in err
    assert "M.from_pretrained('somebody/model', num_labels=3)" in err
    assert "merge_and_unload().save_pretrained('merged')" in err
    code, result, err = run(capsys, monkeypatch, *flags, "--base", tmp_path / "base")
    assert code == 0, err
    assert result["rows"] == 9
    code, _, err = run(
        capsys,
        monkeypatch,
        "export",
        tmp_path / "adapter",
        "--base",
        tmp_path / "base",
        "--store",
        tmp_path / "store",
    )
    assert code == 0, err
    code, _, err = run(capsys, monkeypatch, "export", tmp_path / "base", "--base", tmp_path / "base")
    assert code == 2
    assert "--base is for the folder of an adapter" in err
    code, facts, _ = run(capsys, monkeypatch, "inspect", tmp_path / "adapter")
    assert code == 0
    assert facts["kind"] == "adapter"
    assert "give --base FOLDER" in facts["problems"][0]["problem"]


def test_without_peft_the_command_is_shown(tmp_path, monkeypatch):
    make_adapter(tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'prunella\[peft\]'.*merge_and_unload"):
        resolve_model(tmp_path / "adapter", None, tmp_path / "store")


def change(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: change(f, peft_type="PROMPT_TUNING"), "type 'PROMPT_TUNING', which cannot be merged"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "holds list"),
        (lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"), "save the adapter with"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x"), "cannot be read as weights"),
        (lambda f: change(f, r=8), "does not fit its base"),
        (lambda f: change(f, base_model_name_or_path=""), "give --base"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_refused(tmp_path, damage, message):
    make_adapter(tmp_path)
    damage(tmp_path / "adapter")
    with pytest.raises((FolderError, InputError), match=message):
        resolve_model(tmp_path / "adapter", None, tmp_path / "store")


def test_a_base_that_lacks_what_the_adapter_lacks_too_is_refused(tmp_path):
    make_adapter(tmp_path)
    base = transformers.AutoModel.from_pretrained(tmp_path / "base", add_pooling_layer=False)
    shutil.rmtree(tmp_path / "base")
    base.save_pretrained(tmp_path / "base")
    with pytest.raises(FolderError, match=r"both lack bert\.pooler\.dense"):
        resolve_model(tmp_path / "adapter", None, tmp_path / "store")


def test_a_folder_with_a_model_of_its_own_is_no_adapter(tmp_path):
    make_tiny_family(tmp_path, "bert")
    (tmp_path / "adapter_config.json").write_text("{}")
    assert not is_adapter(tmp_path)


def load(path):
    from safetensors.torch import load_file

    return load_file(path / "adapter_model.safetensors")


def store_tensors(path, tensors):
    from safetensors.torch import save_file

    save_file(tensors, path / "adapter_model.safetensors")


def answers_of(folder):
    batch = TensorBatch(Tokenizer.open(folder, 40).batch(tiny_texts(9).rows))
    with torch.no_grad():
        return load_checkpoint(folder)(batch)[0].numpy(), batch


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True}, {"use_rslora": True}, {"bias": "all"}, {"bias": "lora_only"}, {"fan_in_fan_out": True},
        {"rank_pattern": {"layer.0.attention.self.query": 2}, "alpha_pattern": {"value": 32}},
        {"modules_to_save": ["classifier", "word_embeddings"]}, {"modules_to_save": ["score"]},
        {"layers_to_transform": [1]},
    ],
)  # fmt: skip
def test_every_setting_of_lora_is_merged(tmp_path, settings):
    adapted = make_adapter(tmp_path, **settings)
    found, batch = answers_of(resolve_model(tmp_path / "adapter", None, tmp_path / "store"))
    np.testing.assert_allclose(found, logits_of(adapted, batch), atol=1e-4)


def test_a_base_gets_the_tokens_that_the_adapter_added(tmp_path):
    make_adapter(tmp_path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", attn_implementation="eager"
    )
    model.resize_token_embeddings(90)
    settings = {"target_modules": TARGETS["bert"], "modules_to_save": ["classifier"]}
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=4, **settings)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    change(tmp_path / "adapter", base_model_name_or_path="../base")
    assert any("word_embeddings" in name for name in load(tmp_path / "adapter"))
    folder = resolve_model(tmp_path / "adapter", None, tmp_path / "store")
    found, batch = answers_of(folder)
    assert load_checkpoint(folder).architecture.vocabulary == 90
    np.testing.assert_allclose(found, logits_of(adapted, batch), atol=1e-4)


def train_on_the_encoder(folder):
    """Save an adapter of the bare encoder, whose names lack the first part."""
    body = transformers.AutoModel.from_pretrained(folder / "base")
    config = peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=4, target_modules=TARGETS["bert"])
    peft.get_peft_model(body, config).save_pretrained(folder / "adapter")
    change(folder / "adapter", base_model_name_or_path="../base")


def lose_a_tensor(folder):
    tensors = load(folder / "adapter")
    tensors.pop(next(name for name in tensors if "lora_B" in name))
    store_tensors(folder / "adapter", tensors)


def another_base(family="bert", **sizes):
    def change_base(folder):
        shutil.rmtree(folder / "base")
        make_tiny_family(folder / "base", family, 2, **sizes)

    return change_base


def break_values(folder):
    tensors = load(folder / "adapter")
    next(iter(tensors.values())).fill_(float("nan"))
    store_tensors(folder / "adapter", tensors)


def add_a_token(folder):
    shutil.copy(folder / "base" / "tokenizer.json", folder / "adapter" / "tokenizer.json")
    path = folder / "adapter" / "tokenizer.json"
    document = json.loads(path.read_text())
    parts = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    document["added_tokens"].append({"id": 500, "content": "[X]", "special": True, **parts})
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (train_on_the_encoder, "lacks base_model.model.bert.*, and holds base_model.model.encoder"),
        (lose_a_tensor, "lora_B.weight of its base .*: wanted the model that the adapter was trained on"),
        (another_base(num_hidden_layers=3), "lacks base_model.model.bert.encoder.layer.2"),
        (another_base(num_hidden_layers=1), "holds base_model.model.bert.encoder.layer.1.* no place in its base"),
        (another_base("roberta"), "it lacks 'base_model.model.classifier.dense.weight'"),
        (another_base("bert", hidden_size=32), "does not fit its base .*size mismatch"),
        (break_values, "NaNs detected"), (add_a_token, "beyond the token table of 85 rows, such as '.X.'"),
        (lambda f: change(f / "adapter", task_type="TOKEN_CLS"), "an adapter of the task TOKEN_CLS"),
        (lambda f: change(f / "adapter", task_type="CAUSAL_LM"), "an adapter of the task CAUSAL_LM"),
        (lambda f: change(f / "adapter", base_model_name_or_path=None), "names no base_model_name_or_path"),
        (lambda f: (f / "adapter" / "adapter_model.safetensors").rename(f / "adapter" / "adapter_model.bin"),
         "has no adapter_model.safetensors, only adapter_model.bin"),
        (lambda f: change(f / "adapter", peft_type="PREFIX_TUNING"), "of the type 'PREFIX_TUNING'"),
    ],
)  # fmt: skip
def test_inspect_and_the_verbs_refuse_with_one_reason(tmp_path, capsys, monkeypatch, damage, message):
    make_adapter(tmp_path)
    damage(tmp_path)
    code, facts, _ = run(capsys, monkeypatch, "inspect", tmp_path / "adapter")
    assert (code, facts["can"]) == (0, [])
    assert re.search(message, facts["problems"][0]["problem"]), facts["problems"]
    code, _, err = run(capsys, monkeypatch, "export", tmp_path / "adapter", "--store", tmp_path / "store")
    assert code == 2
    assert re.search(message, err)
    assert "Traceback" not in err


def test_inspect_says_what_the_merged_model_is(tmp_path, capsys, monkeypatch):
    make_adapter(tmp_path)
    code, facts, err = run(capsys, monkeypatch, "inspect", tmp_path / "adapter")
    assert code == 0, err
    assert (facts["kind"], facts["family"], facts["head"], facts["problems"]) == ("adapter", "bert", 3, [])
    assert "export" in facts["can"]
    monkeypatch.setitem(sys.modules, "peft", None)
    _, facts, _ = run(capsys, monkeypatch, "inspect", tmp_path / "adapter")
    assert facts["can"] == []
    assert "pip install 'prunella[peft]'" in facts["problems"][0]["problem"]
