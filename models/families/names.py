"""TensorNames: where one family's checkpoints keep the tensors of this project's modules."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.architecture import LayerShape

ENDS = ("weight", "bias")
DROPPED = {"attention": "attention.output", "ffn": "ffn.fall"}  # a dropped sublayer keeps the bias of its last matrix


@dataclass(frozen=True, slots=True)
class TensorNames:
    """Our modules' names → theirs, both without `.weight` and `.bias`.

    encoder: modules outside the layers, such as embeddings.tokens; theirs stand after `prefix`.
    layers: what theirs call the list of layers.
    layer: modules of one layer, such as ffn.rise.
    qkv: theirs of attention.qkv: three matrices one after the other, or one that is joined as ours is.
    head: modules of the classification head; theirs are whole names.
    """

    prefix: str
    encoder: dict[str, str]
    layers: str
    layer: dict[str, str]
    qkv: tuple[str, ...]
    head: dict[str, str]

    def to_ours(self, tensors: dict[str, Tensor], layers: tuple[LayerShape, ...]) -> dict[str, Tensor]:
        """Return the state dict that a checkpoint's tensors make.

        Tensors that no module wants are left out: models.families.unread checks them.
        """
        tensors = dict(zip(self.with_prefix(tensors), tensors.values(), strict=True))
        state = {}
        for end in ENDS:
            for ours, theirs in self._modules(len(layers)):
                parts = [tensors[f"{name}.{end}"] for name in theirs if f"{name}.{end}" in tensors]
                if len(parts) == len(theirs):
                    state[f"{ours}.{end}"] = parts[0] if len(parts) == 1 else torch.cat(parts)
        for index, layer in enumerate(layers):
            for sublayer, kept in (("attention", layer.heads), ("ffn", layer.ffn)):
                name = f"encoder.layers.{index}.{DROPPED[sublayer]}.bias"
                if not kept and name in state:
                    state[f"encoder.layers.{index}.{sublayer}.bias"] = state.pop(name)
        return state

    def to_theirs(self, state: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
        """Return a state dict of `depth` layers under a checkpoint's names."""
        modules = dict(self._modules(depth))
        for index in range(depth):
            for sublayer, matrix in DROPPED.items():
                modules[f"encoder.layers.{index}.{sublayer}"] = modules[f"encoder.layers.{index}.{matrix}"]
        named = {}
        for name, tensor in state.items():
            module, end = name.rsplit(".", 1)
            theirs = modules[module]
            for part, piece in zip(theirs, tensor.chunk(len(theirs)), strict=True):
                named[f"{part}.{end}"] = piece
        return named

    def with_prefix(self, names: Iterable[str]) -> list[str]:
        """Return the names of a checkpoint's tensors, with the prefix where none has it: bare encoders have none."""
        start, names = f"{self.prefix}.", list(names)
        return names if any(name.startswith(start) for name in names) else [start + name for name in names]

    def read_names(self, depth: int) -> set[str]:
        """Return the names of all tensors that are read of a checkpoint of `depth` layers."""
        return {f"{name}.{end}" for _, theirs in self._modules(depth) for name in theirs for end in ENDS}

    def encoder_parts(self) -> set[str]:
        """Return the first parts of the names, after the prefix, of all that is inside the encoder."""
        return {theirs.split(".")[0] for theirs in (*self.encoder.values(), self.layers)}

    def _modules(self, depth: int) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield our name of each module, and theirs of the one or three modules that hold its tensors."""
        for ours, theirs in self.encoder.items():
            yield f"encoder.{ours}", (f"{self.prefix}.{theirs}",)
        for index in range(depth):
            layer = f"{self.prefix}.{self.layers}.{index}"
            for ours, theirs in self.layer.items():
                yield f"encoder.layers.{index}.{ours}", (f"{layer}.{theirs}",)
            yield f"encoder.layers.{index}.attention.qkv", tuple(f"{layer}.{part}" for part in self.qkv)
        for ours, theirs in self.head.items():
            yield f"head.{ours}", (theirs,)
