"""check_unread(): what a checkpoint holds besides the tensors that are read is known, told or refused, never dropped.

transformers warns of all of it. Here it is an error where the model would compute something else: more layers than
config.json says, adapters, and any other tensor inside the encoder.
"""

import re
import sys
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

from models.distributed import rank
from models.errors import FolderError
from models.families.names import TensorNames

# heads of pretraining and unused poolers, which fine-tuning replaces, and buffers that are computed from the config
KNOWN = re.compile(
    r"^cls\.|^lm_head\.|^vocab_(transform|layer_norm|projector)\.|^(discriminator|generator)_(predictions|lm_head)\."
    r"|^decoder\.|(^|\.)pooler\.|\.(position_ids|token_type_ids)$|rotary_emb\."
)
# peft (LoRA and its kin, prompt tuning) and the adapters library
ADAPTER = re.compile(r"(^|[._])(lora|loha|lokr|ia3|vera|adapters?|prefix_tunings?|prompt_encoder|base_layer)([._]|$)")
NAMED = 3  # tensors in a message


def check_unread(tensors: Iterable[str], names: TensorNames, depth: int, folder: Path) -> None:
    """Compare the tensors of a checkpoint with those that are read of one with `depth` layers.

    A head that is not read, such as a second one, is told of on stderr, once in a process.

    Args:
        tensors: names in the checkpoint.
        names: where the family keeps its tensors.
        depth: layers, as config.json says.
        folder: of the checkpoint, for messages.

    Raises:
        FolderError: there are adapters, further layers, or other tensors inside the encoder.
    """
    given = list(tensors)
    unread = set(names.with_prefix(given)) - names.read_names(depth)
    start = f"{names.prefix}."
    unread = {name for name in unread if not KNOWN.search(name.removeprefix(start))}
    if adapters := {name for name in given if ADAPTER.search(name)}:
        raise FolderError(
            f"{folder} holds an adapter ({_some(adapters)}), which is not computed here: merge it into its model "
            "(peft: merge_and_unload), and save that"
        )
    layers = rf"{re.escape(start + names.layers)}\.(\d+)\."
    if further := {int(found[1]) for name in unread if (found := re.match(layers, name)) and int(found[1]) >= depth}:
        last = f" to {max(further)}" if len(further) > 1 else ""
        raise FolderError(
            f"{folder} holds layer {min(further)}{last} (counted from 0), and its config.json says that there are "
            f"{depth} layers: one of the two is wrong; set the number, or save the model without these layers"
        )
    inside = tuple(f"{start}{part}." for part in names.encoder_parts())
    if foreign := {name for name in unread if name.startswith(inside)}:
        raise FolderError(f"{folder} holds tensors inside the encoder that are not computed here: {_some(foreign)}")
    if unread:
        _warn(folder, _some(unread))


@cache
def _warn(folder: Path, tensors: str) -> None:
    if rank() == 0:
        sys.stderr.write(
            f"prunella: WARNING: {folder} holds tensors that are not read: {tensors}. Answers that need them, such "
            "as those of a second head, are not computed\n"
        )


def _some(names: Collection[str]) -> str:
    first = ", ".join(sorted(names)[:NAMED])
    return first if len(names) <= NAMED else f"{first} and {len(names) - NAMED} more"
