"""Settings and classes in config.json of models that do not classify texts."""

import json

import pytest
import transformers
from tiny import make_tiny_family

from compress.inputs.source import open_source
from models.checkpoint import load_checkpoint, load_encoder, read_architecture
from models.errors import FolderError, InputError
from models.forms.head_task import read_head_task
from prunella.cli.inspect import inspect


def make_other(folder, name):
    """Write a tiny model of a class of transformers."""
    make_tiny_family(folder, "bert")
    (folder / "model.safetensors").unlink()
    config = transformers.BertConfig.from_pretrained(folder)
    getattr(transformers, name)(config).save_pretrained(folder)


@pytest.mark.parametrize(
    "name",
    [
        "BertForMultipleChoice", "BertForTokenClassification", "BertForQuestionAnswering", "BertForMaskedLM",
        "BertForNextSentencePrediction", "BertForPreTraining",
    ],
)  # fmt: skip
def test_a_model_of_another_task_is_an_encoder_and_the_message_names_its_class(tmp_path, name):
    make_other(tmp_path / "model", name)
    assert read_head_task(tmp_path / "model") is None
    told = rf"is a {name}, not a classifier of texts .*finetune --encoder"
    with pytest.raises(FolderError, match=told):
        open_source(tmp_path / "model", tmp_path / "store")
    with pytest.raises(FolderError, match=told):
        load_checkpoint(tmp_path / "model")
    load_encoder(tmp_path / "model")
    assert load_checkpoint(tmp_path / "model", labels=3).labels == 3
    assert inspect(tmp_path / "model")["can"] == ["finetune --encoder", "pretrain --encoder"]


def test_a_head_of_another_task_is_not_kept_for_as_many_labels(tmp_path):
    make_other(tmp_path, "BertForTokenClassification")
    config = json.loads((tmp_path / "config.json").read_text())
    first = load_checkpoint(tmp_path, labels=len(config["id2label"])).head.out.weight
    second = load_checkpoint(tmp_path, labels=len(config["id2label"]), seed=1).head.out.weight
    assert not first.equal(second)


def test_a_bare_encoder_is_told_to_be_fine_tuned(tmp_path):
    make_other(tmp_path, "BertModel")
    with pytest.raises(FolderError, match="is an encoder without a classification head: fine-tune it first"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("pruned", [{"0": [1]}, {"0": [], "1": [0, 2]}])
def test_heads_that_transformers_pruned_are_refused(tmp_path, pruned):
    make_tiny_family(tmp_path, "bert")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"pruned_heads": pruned}))
    with pytest.raises(InputError, match=r"has pruned_heads = .*before it was pruned"):
        read_architecture(tmp_path)
    path.write_text(json.dumps(config | {"pruned_heads": {}}))
    read_architecture(tmp_path)
