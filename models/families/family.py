"""Family: what one kind of Hugging Face checkpoint says, in this project's words, and back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from models.architecture import Architecture, FamilyName
from models.errors import FolderError, InputError
from models.families.names import TensorNames
from models.record import explain

POSITIONS = "encoder.embeddings.positions.weight"
NORM_EPSILON = "norm_epsilon"  # the one size that is not a whole number


def _nothing_more(_: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Family:
    """config.json → Architecture → config.json, and tensors → state dict → tensors.

    name: `model_type` in config.json.
    classes: what transformers' class names begin with.
    names: where the tensors are.
    sizes: a field of Architecture, or depth, heads or ffn → its key in config.json.
    fixed: settings of config.json that are computed with one value only; a checkpoint with another is refused.
    pad_id: the padding token's id where config.json leaves it to transformers' default.
    padding_first: the position table has rows up to and including `pad_id` that no text uses (RoBERTa).
    wanted: further keys that `read_more` reads.
    read_more: config.json → further fields of Architecture.
    write_more: Architecture → further keys of config.json.
    """

    name: FamilyName
    classes: str
    names: TensorNames
    sizes: dict[str, str]
    fixed: dict[str, Any]
    pad_id: int = 0
    padding_first: bool = False
    wanted: tuple[str, ...] = ()
    read_more: Callable[[dict[str, Any]], dict[str, Any]] = _nothing_more
    write_more: Callable[[Architecture], dict[str, Any]] = _nothing_more

    def read_config(self, config: dict[str, Any], source: str) -> Architecture:
        """Return the shape that a config.json describes; `source` names the file in errors.

        Raises:
            FolderError: a key is missing, or holds what cannot be.
            InputError: the model has a setting that is not computed here.
        """
        self._refuse_unknown(config, source)
        told = {ours: config[theirs] for ours, theirs in self.sizes.items()}
        heads, ffn, depth = (told.pop(name) for name in ("heads", "ffn", "depth"))
        told["pad_id"] = self.pad_id if config.get("pad_token_id") is None else config["pad_token_id"]
        told |= {"family": self.name, "head_size": told["width"] // heads, "token_types": told.get("token_types", 0)}
        told["layers"] = [{"heads": heads, "ffn": ffn}] * depth
        if told["head_size"] * heads != told["width"]:
            raise InputError(f"{source}: {heads} attention heads do not share a width of {told['width']} evenly")
        try:
            told["positions"] -= self._unused_positions(told["pad_id"])
            return Architecture.model_validate(told | self.read_more(config))
        except ValidationError as error:
            raise FolderError(f"{source} describes no {self.name}: {explain(error)}") from None

    def write_config(self, shape: Architecture) -> dict[str, Any]:
        """Return config.json for a shape; a pruned one's leaves out what differs from layer to layer."""
        uniform = shape.is_uniform()
        told = shape.model_dump(exclude={"layers"})
        told |= {"depth": len(shape.layers), "positions": shape.positions + self._unused_positions(shape.pad_id)}
        if uniform:
            told |= {"heads": shape.layers[0].heads, "ffn": shape.layers[0].ffn}
        return {
            # transformers must not load a pruned folder as if it were a plain one
            "model_type": self.name if uniform else f"prunella-{self.name}",
            **{theirs: told[ours] for ours, theirs in self.sizes.items() if ours in told},
            **self.fixed,
            "pad_token_id": shape.pad_id,
            **self.write_more(shape),
        }

    def read_tensors(self, tensors: dict[str, Tensor], shape: Architecture) -> dict[str, Tensor]:
        """Return the state dict of a classifier, or of as much of one as the tensors hold."""
        state = self.names.to_ours(tensors, shape.layers)
        if POSITIONS in state:
            state[POSITIONS] = state[POSITIONS][self._unused_positions(shape.pad_id) :]
        return state

    def write_tensors(self, state: dict[str, Tensor], shape: Architecture) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint, each in memory of its own, of the state dict of a classifier."""
        if POSITIONS in state:
            table = state[POSITIONS]
            unused = table.new_zeros(self._unused_positions(shape.pad_id), table.shape[1])
            state = {**state, POSITIONS: torch.cat((unused, table))}
        named = self.names.to_theirs(state, len(shape.layers))
        return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}

    def _unused_positions(self, pad_id: int) -> int:
        return pad_id + 1 if self.padding_first else 0

    def _refuse_unknown(self, config: dict[str, Any], source: str) -> None:
        for key, value in self.fixed.items():
            if config.get(key, value) != value:
                raise InputError(f"{source} has {key} = {config[key]!r}: only {value!r} is computed here")
        missing = [key for key in (*self.sizes.values(), *self.wanted) if key not in config]
        if missing:
            raise FolderError(f"{source} lacks {', '.join(missing)}")
        numbers = {key: (config[key], 1) for ours, key in self.sizes.items() if ours != NORM_EPSILON}
        if config.get("pad_token_id") is not None:
            numbers["pad_token_id"] = (config["pad_token_id"], 0)
        for key, (value, least) in numbers.items():
            if not isinstance(value, int) or value < least:
                raise FolderError(f"{source} has {key} = {value!r}: wanted a whole number, {least} or more")
