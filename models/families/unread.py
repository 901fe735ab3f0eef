"""check_unread(): ignore, report or refuse the tensors of a checkpoint that are not loaded.

transformers only warns of such tensors. Here they are an error if the original model computes something else than the
loaded one: layers beyond the number in config.json, adapters, and other tensors inside the encoder.
"""

import re
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

from models.errors import FolderError
from models.families.names import TensorNames
from models.messages import say

# ignored: pretraining heads and unused poolers, which fine-tuning replaces, and buffers computed from the config
KNOWN = re.compile(
    r"^cls\.|^lm_head\.|^vocab_(transform|layer_norm|projector)\.|^(discriminator|generator)_(predictions|lm_head)\."
    r"|^(lm|mask)_predictions\.|^decoder\.|(^|\.)pooler\.|\.(position_ids|token_type_ids)$|rotary_emb\."
)
# peft (LoRA and its kin, prompt tuning) and the adapters library
ADAPTER = re.compile(r"(^|[._])(lora|loha|lokr|ia3|vera|adapters?|prefix_tunings?|prompt_encoder|base_layer)([._]|$)")
NAMED = 3  # maximum number of tensors named in a message


def check_unread(tensors: Iterable[str], names: TensorNames, depth: int, folder: Path) -> None:
    """Compare the tensors of a checkpoint with those that are read from one with `depth` layers.

    A head that is not read, such as a second one, is reported on stderr, once per process.

    Args:
        tensors: names of the tensors in the checkpoint.
        names: tensor names of the family.
        depth: number of layers in config.json.
        folder: folder of the checkpoint, for messages.

    Raises:
        FolderError: there are adapters, more layers, or other tensors inside the encoder.
    """
    tensor_names = list(tensors)
    prefix = f"{names.prefix}."
    unread = set(names.with_prefix(tensor_names)) - names.read_names(depth)
    unread = {name for name in unread if not KNOWN.search(name.removeprefix(prefix))}
    refuse_adapters(tensor_names, folder)
    layer = re.compile(rf"{re.escape(prefix + names.layers)}\.(\d+)\.")
    indices = {int(match[1]) for name in unread if (match := layer.match(name))}
    if surplus := {index for index in indices if index >= depth}:
        last = f" to {max(surplus)}" if len(surplus) > 1 else ""
        raise FolderError(
            f"{folder} holds layer {min(surplus)}{last} (counted from 0), but its config.json says that there are "
            f"{depth} layers: correct the number, or save the model without these layers"
        )
    inside = tuple(f"{prefix}{part}." for part in names.encoder_parts())
    if unsupported := {name for name in unread if name.startswith(inside)}:
        raise FolderError(f"{folder} holds tensors inside the encoder that are not supported: {some(unsupported)}")
    if unread:
        _warn(folder, some(unread))


def refuse_adapters(tensors: Iterable[str], folder: Path) -> None:
    """Refuse tensors of an adapter.

    Raises:
        FolderError: there is one.
    """
    if adapters := {name for name in tensors if ADAPTER.search(name)}:
        raise FolderError(
            f"{folder} holds an adapter ({some(adapters)}), which is not supported: merge it into its model "
            "(peft: merge_and_unload) and save the result"
        )


def some(names: Collection[str]) -> str:
    """Return the first few names, and how many more there are."""
    first = ", ".join(sorted(names)[:NAMED])
    return first if len(names) <= NAMED else f"{first} and {len(names) - NAMED} more"


@cache
def _warn(folder: Path, tensors: str) -> None:
    say(
        f"WARNING: {folder} holds tensors that are not loaded: {tensors}. Outputs that need them, such "
        "as those of a second head, are not computed"
    )
