"""Names of weights that training code changed: known wrappers are left out, and other weights are named."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TINY_FAMILIES, make_tiny_family

from models.checkpoint import load_checkpoint, load_encoder
from models.errors import FolderError
from models.families import FAMILIES
from models.forms.head_task import read_head_task


def rename(folder, new_name):
    path = folder / "model.safetensors"
    save_file({new_name(name): tensor for name, tensor in load_file(path).items()}, path)


def compiled_layers(name):
    return name.replace("layer.", "layer._orig_mod.").replace("layers.", "layers._orig_mod.")


WRAPPERS = {
    "DataParallel": lambda n: f"module.{n}",
    "own class": lambda n: f"model.{n}",
    "compiled": lambda n: f"_orig_mod.{n}",
    "all": lambda n: f"module._orig_mod.model.{n}",
    "compiled layers": compiled_layers,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_names_of_wrappers_are_left_out_with_a_notice(tmp_path, capsys, family, wrapper):
    make_tiny_family(tmp_path, family)
    before = load_checkpoint(tmp_path).state_dict()
    rename(tmp_path, WRAPPERS[wrapper])
    assert len(read_head_task(tmp_path).labels) == 3
    after = load_checkpoint(tmp_path).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert capsys.readouterr().err.count("names of wrappers are left out") == 1


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_a_classifier_without_the_prefix_of_its_family_is_read_with_a_notice(tmp_path, capsys, family):
    make_tiny_family(tmp_path, family)
    before, prefix = load_checkpoint(tmp_path).state_dict(), FAMILIES[family].names.prefix
    rename(tmp_path, lambda name: name.removeprefix(f"{prefix}."))
    assert len(read_head_task(tmp_path).labels) == 3
    after = load_checkpoint(tmp_path).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert capsys.readouterr().err.count(f"begins with '{prefix}.'") == 1


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_ordinary_names_give_no_notice(tmp_path, capsys, family):
    make_tiny_family(tmp_path, family)
    load_checkpoint(tmp_path)
    assert "names of" not in capsys.readouterr().err


@pytest.mark.parametrize("read", [read_head_task, load_checkpoint, load_encoder])
@pytest.mark.parametrize(("family", "said"), [("bert", "roberta"), ("distilbert", "bert"), ("modernbert", "bert")])
def test_weights_of_another_family_are_refused_by_their_names(tmp_path, family, said, read):
    make_tiny_family(tmp_path / "said", said)
    make_tiny_family(tmp_path / "found", family)
    (tmp_path / "found" / "model.safetensors").rename(tmp_path / "said" / "model.safetensors")
    first = min(load_file(tmp_path / "said" / "model.safetensors"))
    with pytest.raises(FolderError, match=rf"wanted names such as {said}\..*, found {first}, .*correct model_type"):
        read(tmp_path / "said")


def test_two_tensors_of_one_name_are_refused(tmp_path):
    make_tiny_family(tmp_path, "bert")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"_orig_mod.classifier.bias": tensors["classifier.bias"] + 1}, path)
    with pytest.raises(FolderError, match=r"two tensors for classifier\.bias"):
        load_checkpoint(tmp_path)


def test_a_bare_encoder_of_old_names_is_read_as_before(tmp_path, capsys):
    make_tiny_family(tmp_path, "bert")
    before = load_encoder(tmp_path).state_dict()
    path = tmp_path / "model.safetensors"
    old = {n: t for n, t in load_file(path).items() if "classifier" not in n}
    save_file({n.removeprefix("bert.").replace("Norm.weight", "Norm.gamma"): t for n, t in old.items()}, path)
    assert all(torch.equal(load_encoder(tmp_path).state_dict()[name], tensor) for name, tensor in before.items())
    assert capsys.readouterr().err == ""
