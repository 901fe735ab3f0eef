"""ModernLayers: ModernBERT's layers as ONNX nodes: norms before, rotary positions, windows, GeGLU.

ONNX Runtime's Attention and QAttention hold the product with the QKV matrix and no rotation, so they cannot be used:
queries and keys are turned by its RotaryEmbedding, and MultiHeadAttention mixes. A window is a bias on the scores.
There is no fused GeGLU for processors: a GELU and a product.
"""

from dataclasses import dataclass

import numpy as np
import torch
from onnx import TensorProto

from export.layers import Layers
from export.nodes import FUSED, Graph
from export.precision import Kind
from models.architecture import Architecture
from models.modernbert import angles, settings_of

BEYOND = -1e4  # on scores outside of the window: the softmax's share is 0 there in fp32 and in fp16


@dataclass(frozen=True, slots=True)
class ModernLayers(Layers):
    """Writes ModernBERT's layers into a graph."""

    def prepare(self) -> None:
        """Add what layers share: the angles of each position, and the bias of windows where a text can be longer."""
        settings, indices = settings_of(self.shape), range(len(self.shape.layers))
        kinds = {self._is_global(index) for index in indices if self.shape.layers[index].heads}
        for is_global, theta in ((True, settings.global_theta), (False, settings.local_theta)):
            if is_global in kinds:
                _angles(self.graph, _kind(is_global), self.shape, theta)
        if False in kinds and has_windows(self.shape):
            _window(self.graph, settings.window // 2)

    def finish(self, hidden: str) -> str:
        """Add the encoder's own norm."""
        return self._norm(hidden, "encoder.norm", "normed")

    def write(self, index: int, hidden: str) -> str:
        """Add layer `index`, (batch, tokens, width) → the same without a norm, or the first token, (batch, 1, width).

        The first token alone is made in the last layer, where the head reads no other.
        """
        name, module, layer = f"layer{index}", f"encoder.layers.{index}", self.shape.layers[index]
        kinds, first_only = self.precision.layers[index], self.shape.first_only(index)
        stream = self.graph.node("Gather", [hidden, "zero"], "first", axis=1) if first_only else hidden
        added = None
        if layer.heads:
            normed = self._norm(hidden, f"{module}.attention.norm", f"{name}.attention.normed") if index else hidden
            mixed = self._mix_modern(index, normed, kinds.attention)
            matrix = self._matrix(f"{module}.attention.output")
            added = self.product(mixed, matrix, f"{name}.attention.output", kinds.attention)
        stream = self._add(stream, added, f"{module}.attention", f"{name}.attention")
        added = None
        if layer.ffn:
            normed = self._norm(stream, f"{module}.ffn.norm", f"{name}.ffn.normed")
            inner = self._geglu(normed, f"{module}.ffn.rise", f"{name}.ffn", kinds.ffn)
            added = self.product(inner, self._matrix(f"{module}.ffn.fall"), f"{name}.ffn.fall", kinds.ffn)
        return self._add(stream, added, f"{module}.ffn", f"{name}.ffn")

    def _mix_modern(self, index: int, normed: str, kind: Kind) -> str:
        """Add rotary attention; of the first token alone where no other is read: its query is turned by nothing."""
        name, heads = f"layer{index}.attention", self.shape.layers[index].heads
        matrix, view = self._qkv(f"encoder.layers.{index}.attention", kind), _kind(self._is_global(index))
        window = "window" if not self._is_global(index) and has_windows(self.shape) else ""
        if self.shape.first_only(index):
            inner = heads * self.shape.head_size
            first = self.graph.node("Gather", [normed, "zero"], "last.normed.first", axis=1)
            query = self.product(first, matrix.columns(f"{matrix.name}.query", slice(0, inner)), "last.query", kind)
            both = self.product(normed, matrix.columns(matrix.name, slice(inner, None)), "last.keys_values", kind)
            key, value = self.graph.split(both, ["last.keys", "last.values"])
            if window:
                window = self.graph.node("Gather", [window, "zero"], "window.first", axis=2)
        else:
            whole = self.product(normed, matrix, f"{name}.qkv", kind)
            query, key, value = self.graph.split(whole, [f"{name}.{part}" for part in ("query", "key", "value")])
            query = self._turn(query, view, f"{name}.query.turned", heads)
        key = self._turn(key, view, f"{name}.key.turned", heads)
        inputs = [query, key, value, "", "mask", window]
        return self.graph.node("MultiHeadAttention", inputs, f"{name}.mixed", FUSED, num_heads=heads)

    def _turn(self, states: str, view: str, name: str, heads: int) -> str:
        inputs = [states, "zero", f"{view}.cosine", f"{view}.sine"]
        return self.graph.node("RotaryEmbedding", inputs, name, FUSED, num_heads=heads, interleaved=0)

    def _geglu(self, normed: str, module: str, name: str, kind: Kind) -> str:
        both = self.product(normed, self._matrix(module), f"{name}.rise", kind)
        bent, factor = self.graph.split(both, [f"{name}.bent", f"{name}.factor"])
        return self.graph.node(
            "Mul", [self.graph.node("Gelu", [bent], f"{name}.gelu", FUSED), factor], f"{name}.inner"
        )

    def _norm(self, hidden: str, module: str, name: str) -> str:
        return self.graph.norm(hidden, self.state, module, name, self.shape.norm_epsilon)

    def _add(self, stream: str, added: str | None, module: str, name: str) -> str:
        """Add what a sublayer gave, or the bias of a dropped one, if it has one, to the residual stream."""
        if added is None:
            if f"{module}.bias" not in self.state:
                return stream
            added = self.graph.weight(f"{module}.bias", self.state[f"{module}.bias"])
        return self.graph.node("Sum", [stream, added], f"{name}.stream")  # not Add: see Layers._add_and_norm

    def _is_global(self, index: int) -> bool:
        return index % settings_of(self.shape).global_every == 0


def has_windows(shape: Architecture) -> bool:
    """Whether a text can be so long that a window hides some of it."""
    return settings_of(shape).window // 2 < shape.positions - 1


def _kind(is_global: bool) -> str:
    return "global" if is_global else "local"


def _angles(graph: Graph, name: str, shape: Architecture, theta: float) -> None:
    """Add cosines and sines of all positions, (positions, head_size / 2), as torch computes them: far ones differ."""
    turns = angles(torch.arange(shape.positions), shape.head_size, theta)
    for end, values in zip(("cosine", "sine"), turns, strict=True):
        graph.weight(f"{name}.{end}", values[:, : shape.head_size // 2].numpy())


def _window(graph: Graph, reach: int) -> None:
    """Add `window`, (1, 1, tokens, tokens): 0 where two tokens are at most `reach` apart, BEYOND elsewhere."""
    for name, value in (("begin", 0), ("step", 1), ("reach", reach)):
        graph.weight(f"window.{name}", np.int64(value))
    for name, axes in (("rows", [0, 1, 3]), ("columns", [0, 1, 2])):
        graph.weight(f"window.{name}.axes", np.array(axes, dtype=np.int64))
    length = graph.node("Squeeze", ["length"], "window.length")
    places = graph.node("Range", ["window.begin", length, "window.step"], "window.places")
    both = [graph.node("Unsqueeze", [places, f"window.{n}.axes"], f"window.{n}") for n in ("rows", "columns")]
    distance = graph.node("Abs", [graph.node("Sub", both, "window.difference")], "window.distance")
    hidden = graph.node("Greater", [distance, "window.reach"], "window.hidden")
    to = TensorProto.FLOAT16 if graph.half else TensorProto.FLOAT
    share = graph.node("Cast", [hidden], "window.share", to=to)
    graph.node("Mul", [share, graph.weight("window.beyond", np.float32(BEYOND))], "window")
