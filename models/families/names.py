"""TensorNames: maps the module names of this project to the tensor names in the checkpoints of one family.

In the code, "ours" is a name of this project, and "theirs" is a name in transformers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.architecture import LayerShape

SUFFIXES = ("weight", "bias")
DROPPED = {"attention": "attention.output", "ffn": "ffn.fall"}  # a removed sublayer keeps the bias of its last matrix


@dataclass(frozen=True, slots=True)
class TensorNames:
    """Our module names → theirs, both without `.weight` and `.bias`.

    prefix: first part of their names inside the encoder, such as bert.
    encoder: modules outside the layers, such as embeddings.tokens; their names are relative to `prefix`.
    layers: their name of the list of layers.
    layer: modules of one layer, such as ffn.rise.
    qkv: their names of attention.qkv: three matrices (query, key, value), or one joined matrix as ours.
    head: modules of the classification head; their names are complete.
    """

    prefix: str
    encoder: dict[str, str]
    layers: str
    layer: dict[str, str]
    qkv: tuple[str, ...]
    head: dict[str, str]

    def to_ours(self, tensors: dict[str, Tensor], layers: tuple[LayerShape, ...]) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint as a state dict.

        Tensors that belong to no module are left out; models.families.unread checks them.
        """
        tensors = dict(zip(self.with_prefix(tensors), tensors.values(), strict=True))
        state = {}
        for suffix in SUFFIXES:
            for ours, theirs in self._modules(len(layers)):
                parts = [tensors[f"{name}.{suffix}"] for name in theirs if f"{name}.{suffix}" in tensors]
                if len(parts) == len(theirs):
                    state[f"{ours}.{suffix}"] = parts[0] if len(parts) == 1 else torch.cat(parts)
        for index, layer in enumerate(layers):
            for sublayer, size in (("attention", layer.heads), ("ffn", layer.ffn)):
                name = f"encoder.layers.{index}.{DROPPED[sublayer]}.bias"
                if size == 0 and name in state:
                    state[f"encoder.layers.{index}.{sublayer}.bias"] = state.pop(name)
        return state

    def to_theirs(self, state: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
        """Return the state dict of an encoder with `depth` layers under the names of a checkpoint."""
        modules = dict(self._modules(depth))
        for index in range(depth):
            for sublayer, matrix in DROPPED.items():
                modules[f"encoder.layers.{index}.{sublayer}"] = modules[f"encoder.layers.{index}.{matrix}"]
        tensors = {}
        for name, tensor in state.items():
            module, suffix = name.rsplit(".", 1)
            theirs = modules[module]
            for part, chunk in zip(theirs, tensor.chunk(len(theirs)), strict=True):
                tensors[f"{part}.{suffix}"] = chunk
        return tensors

    def with_prefix(self, names: Iterable[str]) -> list[str]:
        """Return the tensor names of a checkpoint; if none has the prefix, it is added to all but the head's."""
        prefix, names = f"{self.prefix}.", list(names)
        if any(name.startswith(prefix) for name in names):
            return names
        head = {name for name in self.head.values() if not name.startswith(prefix)}
        return [name if name.rpartition(".")[0] in head else prefix + name for name in names]

    def stored_name(self, ours: str, depth: int) -> str:
        """Return the name in a checkpoint of our tensor, for messages; of joined matrices that of the first."""
        module, _, suffix = ours.rpartition(".")
        theirs = dict(self._modules(depth)).get(module)
        return ours if theirs is None else f"{theirs[0]}.{suffix}"

    def read_names(self, depth: int) -> set[str]:
        """Return the names of all tensors that are read from a checkpoint with `depth` layers."""
        return {f"{name}.{suffix}" for _, theirs in self._modules(depth) for name in theirs for suffix in SUFFIXES}

    def encoder_parts(self) -> set[str]:
        """Return the first part, after the prefix, of the names of all tensors inside the encoder."""
        return {theirs.split(".")[0] for theirs in (*self.encoder.values(), self.layers)}

    def _modules(self, depth: int) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield our name of each module, and their names of the one or three modules with its tensors."""
        for ours, theirs in self.encoder.items():
            yield f"encoder.{ours}", (f"{self.prefix}.{theirs}",)
        for index in range(depth):
            layer = f"{self.prefix}.{self.layers}.{index}"
            for ours, theirs in self.layer.items():
                yield f"encoder.layers.{index}.{ours}", (f"{layer}.{theirs}",)
            yield f"encoder.layers.{index}.attention.qkv", tuple(f"{layer}.{part}" for part in self.qkv)
        for ours, theirs in self.head.items():
            yield f"head.{ours}", (theirs,)
