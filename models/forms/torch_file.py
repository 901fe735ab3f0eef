"""read_torch_file(): a `.bin` file → its tensors, by torch's weights-only loader, which runs no code."""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.errors import FolderError
from models.messages import say

SHOWN = 4  # maximum number of entries named in a message
SAVE = "save the weights alone (transformers: model.save_pretrained)"


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by their names.

    A training checkpoint that holds one dictionary of tensors beside other entries, such as
    `{"state_dict": …, "epoch": …}`, gives this dictionary, and a notice.

    Raises:
        FolderError: it cannot be read without running code, or holds no dictionary of tensors, or several.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (PermissionError, MemoryError) as error:
        raise FolderError(f"{path} cannot be read as weights: {error!r}") from None
    except Exception as error:  # of many kinds, by the place of the damage
        raise FolderError(_refusal(path, str(error))) from None
    if _is_tensors(content):
        return dict(content)
    if not isinstance(content, dict):
        raise FolderError(f"{path} holds {type(content).__name__}, wanted a dictionary of tensors: {SAVE}")
    inner = [key for key, value in content.items() if _is_tensors(value)]
    others = [str(key) for key in content if key not in inner]
    if len(inner) != 1 or any(isinstance(content[key], Tensor) for key in content):
        count = f"{len(inner)} dictionaries of tensors ({_some(map(str, inner))})" if inner else "none"
        raise FolderError(
            f"{path} holds {_some(map(str, content))}: wanted tensors only, or one dictionary of tensors, found "
            f"{count}: {SAVE}"
        )
    _say_inner(path, str(inner[0]), _some(others))
    return dict(content[inner[0]])


@cache
def _say_inner(path: Path, key: str, others: str) -> None:
    say(f"{path}: the weights are those under {key!r}; not read: {others or 'nothing'}")


def _is_tensors(value: Any) -> bool:
    """Whether a value is a dictionary that holds tensors by their names, and nothing else."""
    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(key, str) and isinstance(item, Tensor) for key, item in value.items())


def _refusal(path: Path, reason: str) -> str:
    """Return the message for a file that the loader refuses; torch's own suggests to load it without a check."""
    if kind := re.search(r"GLOBAL ([\w.]+)", reason):
        return (
            f"{path} holds more than weights, such as a whole pickled model ({kind[1]}): reading it could run code, "
            f"so it is not loaded. Where it was made, {SAVE}"
        )
    return f"{path} cannot be read as weights: it is damaged, or no file of tensors that torch wrote: {SAVE}"


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
