"""Family: converts config.json and tensors of one family of Hugging Face checkpoints to our form, and back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from models.architecture import Activation, Architecture, FamilyName
from models.errors import FolderError, InputError
from models.families.names import TensorNames
from models.schema import explain

POSITIONS = "encoder.embeddings.positions.weight"
ACTIVATIONS: dict[str, Activation] = {  # names in transformers, several of which are one function
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu",
}  # fmt: skip
NORM_EPSILON = "norm_epsilon"  # the only entry of `sizes` that is not an integer


def _no_extra(_: Any) -> dict[str, Any]:
    return {}


def _unchanged(tensors: dict[str, Tensor], config: dict[str, Any], source: str) -> dict[str, Tensor]:  # noqa: ARG001
    return tensors


@dataclass(frozen=True, slots=True)
class Family:
    """Converts config.json to an Architecture and tensors to a state dict, and back.

    name: `model_type` in config.json.
    classes: prefix of the class names in transformers.
    names: names of the tensors.
    sizes: a field of Architecture, or depth, heads or ffn → its key in config.json.
    fixed: keys of config.json that are supported with one value only; a checkpoint with another value is refused.
    activation_key: key of the activation of the FFNs; None: it is fixed.
    pad_id: id of the padding token if config.json has none (the default of transformers).
    padding_first: whether positions are counted without tokens with the id `pad_id`, which have the row of this
        number in the position table; the others have the rows after it (RoBERTa).
    padding_row: with `padding_first`, the id and the row that count as padding's, whatever `pad_id` is (MPNet).
    extra_keys: more keys of config.json, which `read_extra` needs.
    read_extra: config.json → more fields of Architecture.
    write_extra: Architecture → more keys of config.json.
    fold: tensors, config.json and its path → tensors without those of modules that others can contain.
    """

    name: FamilyName
    classes: str
    names: TensorNames
    sizes: dict[str, str]
    fixed: dict[str, Any]
    activation_key: str | None = "hidden_act"
    pad_id: int = 0
    padding_first: bool = False
    padding_row: int | None = None
    extra_keys: tuple[str, ...] = ()
    read_extra: Callable[[dict[str, Any]], dict[str, Any]] = _no_extra
    write_extra: Callable[[Architecture], dict[str, Any]] = _no_extra
    fold: Callable[[dict[str, Tensor], dict[str, Any], str], dict[str, Tensor]] = _unchanged

    def read_config(self, config: dict[str, Any], source: str) -> Architecture:
        """Return the shape that a config.json describes; `source` names the file in errors.

        Raises:
            FolderError: a key is missing or has an invalid value.
            InputError: the model has a setting that is not supported.
        """
        self._check(config, source)
        fields = {ours: config[theirs] for ours, theirs in self.sizes.items()}
        heads, ffn, depth = (fields.pop(name) for name in ("heads", "ffn", "depth"))
        fields["family"] = self.name
        fields["pad_id"] = self._pad_id(config)
        fields["head_size"] = fields["width"] // heads
        fields["token_types"] = fields.get("token_types", 0)
        fields["layers"] = [{"heads": heads, "ffn": ffn}] * depth
        if self.activation_key is not None:
            fields["activation"] = self._read_activation(config, self.activation_key, source)
        if fields["head_size"] * heads != fields["width"]:
            raise InputError(f"{source}: hidden size {fields['width']} is not a multiple of {heads} attention heads")
        try:
            fields["positions"] -= self.unused_positions(fields["pad_id"])
            return Architecture.model_validate(fields | self.read_extra(config))
        except ValidationError as error:
            raise FolderError(f"{source} does not describe a valid {self.name}: {explain(error)}") from None

    def write_config(self, shape: Architecture) -> dict[str, Any]:
        """Return config.json for a shape; for a pruned one, without the keys whose value differs between layers."""
        uniform = shape.is_in_transformers()
        fields = shape.model_dump(exclude={"layers"})
        fields |= {"depth": len(shape.layers), "positions": shape.positions + self.unused_positions(shape.pad_id)}
        if uniform:
            fields |= {"heads": shape.layers[0].heads, "ffn": shape.layers[0].ffn}
        return {
            # an unknown type, so that transformers does not load a pruned folder as an ordinary model
            "model_type": self.name if uniform else f"prunella-{self.name}",
            **{theirs: fields[ours] for ours, theirs in self.sizes.items() if ours in fields},
            **self.fixed,
            **self._write_activation(shape),
            "pad_token_id": shape.pad_id,
            **self.write_extra(shape),
        }

    def read_tensors(self, tensors: dict[str, Tensor], shape: Architecture) -> dict[str, Tensor]:
        """Return the state dict of a classifier; it lacks the modules that the tensors do not have."""
        state = self.names.to_ours(tensors, shape.layers)
        if not shape.has_position_table:  # files of a DeBERTa can hold one that the model does not use
            state.pop(POSITIONS, None)
        if POSITIONS in state:
            state[POSITIONS] = state[POSITIONS][self.unread_rows(shape.pad_id) :]
        return state

    def write_tensors(self, state: dict[str, Tensor], shape: Architecture) -> dict[str, Tensor]:
        """Return the state dict of a classifier as tensors of a checkpoint, none of which share memory."""
        if POSITIONS in state:
            table = state[POSITIONS]
            unused = table.new_zeros(self.unread_rows(shape.pad_id), table.shape[1])
            state = {**state, POSITIONS: torch.cat((unused, table))}
        named = self.names.to_theirs(state, len(shape.layers))
        return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}

    def uncounted_id(self, pad_id: int) -> int | None:
        """Return the token id for which no position is counted; None: all tokens have a position (BERT)."""
        if not self.padding_first:
            return None
        return pad_id if self.padding_row is None else self.padding_row

    def unused_positions(self, pad_id: int) -> int:
        """Return the number of first rows of the position table that are no position of a text."""
        uncounted = self.uncounted_id(pad_id)
        return 0 if uncounted is None else 1 + uncounted

    @property
    def revision(self) -> dict[str, str]:
        """Settings of stages whose results changed for this family only: positions once counted padding inside."""
        return {"positions": "counted"} if self.padding_first else {}

    def unread_rows(self, pad_id: int) -> int:
        """Return the number of first rows of the position table that no token reads: all before padding's."""
        return self.uncounted_id(pad_id) or 0

    def _pad_id(self, config: dict[str, Any]) -> int:
        """Return the padding id; where none is named and none is needed, one that is in the table."""
        named: int | None = config.get("pad_token_id")
        if named is None and not self.padding_first and self.pad_id >= config[self.sizes["vocabulary"]]:
            return 0
        return self.pad_id if named is None else named

    @staticmethod
    def _read_activation(config: dict[str, Any], key: str, source: str) -> Activation:
        name = config.get(key, "gelu")
        if name not in ACTIVATIONS:
            raise InputError(f"{source} has {key} = {name!r}: supported are {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[name]

    def _write_activation(self, shape: Architecture) -> dict[str, str]:
        if self.activation_key is None:
            return {}
        return {self.activation_key: next(name for name, one in ACTIVATIONS.items() if one == shape.activation)}

    def _check(self, config: dict[str, Any], source: str) -> None:
        for key, value in self.fixed.items():
            if config.get(key, value) != value:
                raise InputError(f"{source} has {key} = {config[key]!r}: only {value!r} is supported")
        missing = [key for key in (*self.sizes.values(), *self.extra_keys) if key not in config]
        if missing:
            raise FolderError(f"{source} lacks {', '.join(missing)}")
        numbers = {key: (config[key], 1) for ours, key in self.sizes.items() if ours != NORM_EPSILON}
        if config.get("pad_token_id") is not None:
            numbers["pad_token_id"] = (config["pad_token_id"], 0)
        for key, (value, minimum) in numbers.items():
            if not isinstance(value, int) or value < minimum:
                raise FolderError(f"{source} has {key} = {value!r}: wanted a whole number, {minimum} or more")
