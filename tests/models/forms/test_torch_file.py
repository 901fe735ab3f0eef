"""Files that torch wrote: what holds the weights is found or refused, and no code of such a file is run."""

import os
import pickle

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_tiny_family

from models.checkpoint import load_checkpoint
from models.errors import FolderError
from prunella.cli.inspect import inspect


def as_torch_file(folder, wrap):
    """Write the weights of a folder into pytorch_model.bin, as what `wrap` makes of them."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(wrap(tensors), folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: {"state_dict": t, "epoch": 3},
        lambda t: {"epoch": 3, "model": t, "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": []}},
        lambda t: {"model_state_dict": t},
    ],
)
def test_the_weights_inside_a_training_checkpoint_are_read_with_a_notice(tmp_path, capsys, wrap):
    make_tiny_family(tmp_path, "bert")
    before = load_checkpoint(tmp_path).state_dict()
    as_torch_file(tmp_path, wrap)
    after = load_checkpoint(tmp_path).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert inspect(tmp_path)["problems"] == []
    assert capsys.readouterr().err.count("the weights are those under") == 1


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda t: {"model": t, "ema": t}, r"found 2 dictionaries of tensors \(model, ema\)"),
        (lambda t: {"epoch": 3, "models": [t]}, "holds epoch, models: .* found none"),
        (lambda t: t | {"epoch": 3}, "holds bert.* found none"),
        (lambda t: t | {"more": t}, "wanted tensors only"),
        (lambda t: {}, "found none"),
        (lambda t: [*t.values()], "holds list"),
        (lambda t: t["classifier.bias"], "holds Tensor"),
        (lambda t: {0: t["classifier.bias"]}, "found none"),
    ],
)
def test_other_contents_are_refused_by_what_they_hold(tmp_path, wrap, message):
    make_tiny_family(tmp_path, "bert")
    as_torch_file(tmp_path, wrap)
    with pytest.raises(FolderError, match=message):
        load_checkpoint(tmp_path)
    assert message.split(" ")[0] in inspect(tmp_path)["problems"][0]["problem"]


class Trap:
    """A pickle that makes a file where it is loaded without a check."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("form", ["model", "trap", "plain pickle", "cut", "empty", "script"])
def test_a_file_that_could_run_code_or_is_damaged_is_refused_in_one_sentence(tmp_path, form):
    model = make_tiny_family(tmp_path, "bert")
    path, trap = tmp_path / "pytorch_model.bin", tmp_path / "trap"
    (tmp_path / "model.safetensors").unlink()
    torch.save(model if form == "model" else {"a": Trap(trap)} if form == "trap" else model.state_dict(), path)
    if form == "plain pickle":
        path.write_bytes(pickle.dumps({"a": Trap(trap)}))
    elif form in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[: 5000 if form == "cut" else 0])
    elif form == "script":
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    with pytest.raises(FolderError, match=r"save the weights alone") as caught:
        load_checkpoint(tmp_path)
    text = str(caught.value)
    assert ("could run code" in text) == (form in ("model", "trap"))
    assert ("\n" in text, "weights_only" in text, trap.exists()) == (False, False, False)
