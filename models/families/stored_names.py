"""family_names(): the names of the tensors in a file → the names that the family has in transformers.

Wrappers of training code put names before those of the model: DistributedDataParallel `module.`, torch.compile
`_orig_mod.`, a class of one's own that holds the model `model.`. Files before 2019 call the weight and bias of a
normalization gamma and beta.
"""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from models.errors import FolderError
from models.families.names import TensorNames
from models.families.unread import refuse_adapters, some
from models.messages import say

OUTER = ("module.", "model.")  # left out where all names begin so
INNER = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # also inside a name
OLD = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))


def family_names(stored: Iterable[str], names: TensorNames, depth: int, folder: Path) -> dict[str, str]:
    """Return the family's name of each stored tensor; a name that changes is said once, but for those before 2019.

    Args:
        stored: names of the tensors in the files.
        names: tensor names of the family.
        depth: number of layers in config.json.
        folder: folder of the checkpoint, for messages.

    Raises:
        FolderError: no name is one of a layer of the family, or two tensors have one name.
    """
    before = list(stored)
    after = [INNER.sub("", name) for name in before]
    while not _has_layers(after, names, depth) and (outer := _common(after)):
        after = [name.removeprefix(outer) for name in after]
    if not _has_layers(after, names, depth):
        refuse_adapters(before, folder)
        wanted = f"{names.prefix}.{names.layers}.0"
        raise FolderError(
            f"{folder} holds other weights than its config.json says: wanted names such as {wanted}…, found "
            f"{some(before)}: correct model_type in config.json, or save the model again (model.save_pretrained)"
        )
    if after != before:
        _say_unwrapped(folder, before[0], after[0])
    complete = names.with_prefix(after)
    if complete != after and not set(complete).isdisjoint(after):
        _say_prefix(folder, f"{names.prefix}.")
    after = complete
    for old, new in OLD:
        after = [name.replace(old, new) for name in after]
    if len(set(after)) < len(after):
        twice = sorted({name for name in after if after.count(name) > 1})
        raise FolderError(f"{folder} holds two tensors for {twice[0]}: save the model again (model.save_pretrained)")
    return dict(zip(before, after, strict=True))


def _has_layers(stored: list[str], names: TensorNames, depth: int) -> bool:
    """Whether a name is one of a layer of the family."""
    layers = f"{names.prefix}.{names.layers}."
    wanted = {name for name in names.read_names(depth) if name.startswith(layers)}
    return not wanted or not wanted.isdisjoint(names.with_prefix(stored))


def _common(stored: list[str]) -> str | None:
    """Return the wrapper's name with which all names begin."""
    return next((outer for outer in OUTER if stored and all(name.startswith(outer) for name in stored)), None)


@cache
def _say_unwrapped(folder: Path, before: str, after: str) -> None:
    say(f"{folder}: names of wrappers are left out of the names of the weights: {before} is read as {after}")


@cache
def _say_prefix(folder: Path, prefix: str) -> None:
    say(f"{folder}: no name of a weight begins with {prefix!r}: it is added to those of the encoder")
