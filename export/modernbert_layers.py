"""ModernLayers: write ModernBERT's layers as ONNX nodes: pre-norm, rotary positions, local windows and GeGLU.

ONNX Runtime's Attention and QAttention include the product with the QKV matrix and have no rotation, so they cannot
be used: RotaryEmbedding rotates queries and keys, and MultiHeadAttention computes the attention. A local window is a
bias on the attention scores. ONNX Runtime has no fused GeGLU for CPUs, so it is written as a GELU and a product.
"""

from dataclasses import dataclass

import numpy as np
import torch
from onnx import TensorProto

from export.graph_builder import FUSED, Graph
from export.graph_precision import Kind
from export.layers import Layers
from models.architecture import Architecture
from models.encoders.modernbert_encoder import angles, settings_of

MASKED_SCORE = -1e4  # added to scores outside of the window: their softmax is then 0 in fp32 and in fp16


@dataclass(frozen=True, slots=True)
class ModernLayers(Layers):
    """Writes ModernBERT's layers into a graph."""

    def prepare(self) -> None:
        """Add the rotary angles of all positions, and the bias of local windows if a text can be longer than one."""
        settings, indices = settings_of(self.shape), range(len(self.shape.layers))
        used = {self._is_global(index) for index in indices if self.shape.layers[index].heads}
        for is_global, theta in ((True, settings.global_theta), (False, settings.local_theta)):
            if is_global in used:
                _angles(self.graph, _scope(is_global), self.shape, theta)
        if False in used and has_windows(self.shape):
            _window(self.graph, settings.window // 2)

    def finish(self, hidden: str) -> str:
        """Add the norm after the last layer."""
        return self._norm(hidden, "encoder.norm", "normed")

    def write(self, index: int, hidden: str) -> str:
        """Add layer `index` and return the name of the residual stream after it, (batch, tokens, width).

        If the head reads the first token only, the last layer computes no other: (batch, 1, width).
        """
        name, module, layer = f"layer{index}", f"encoder.layers.{index}", self.shape.layers[index]
        kinds, first_only = self.precision.layers[index], self.shape.first_only(index)
        stream = self.graph.node("Gather", [hidden, "zero"], "first", axis=1) if first_only else hidden
        added = None
        if layer.heads:
            normed = self._norm(hidden, f"{module}.attention.norm", f"{name}.attention.normed") if index else hidden
            context = self._rotary_attention(index, normed, kinds.attention)
            matrix = self._matrix(f"{module}.attention.output")
            added = self.product(context, matrix, f"{name}.attention.output", kinds.attention)
        stream = self._add(stream, added, f"{module}.attention", f"{name}.attention")
        added = None
        if layer.ffn:
            normed = self._norm(stream, f"{module}.ffn.norm", f"{name}.ffn.normed")
            inner = self._geglu(normed, f"{module}.ffn.rise", f"{name}.ffn", kinds.ffn)
            added = self.product(inner, self._matrix(f"{module}.ffn.fall"), f"{name}.ffn.fall", kinds.ffn)
        return self._add(stream, added, f"{module}.ffn", f"{name}.ffn")

    def _rotary_attention(self, index: int, normed: str, kind: Kind) -> str:
        """Add rotary attention of all tokens, or of the first token only if the layer computes no other.

        The query of the first token is not rotated: its position is 0.
        """
        name, heads = f"layer{index}.attention", self.shape.layers[index].heads
        matrix, scope = self._qkv(f"encoder.layers.{index}.attention", kind), _scope(self._is_global(index))
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
            query = self._rotate(query, scope, f"{name}.query.turned", heads)
        key = self._rotate(key, scope, f"{name}.key.turned", heads)
        inputs = [query, key, value, "", "mask", window]
        return self.graph.node("MultiHeadAttention", inputs, f"{name}.mixed", FUSED, num_heads=heads)

    def _rotate(self, states: str, scope: str, name: str, heads: int) -> str:
        inputs = [states, "zero", f"{scope}.cosine", f"{scope}.sine"]
        return self.graph.node("RotaryEmbedding", inputs, name, FUSED, num_heads=heads, interleaved=0)

    def _geglu(self, normed: str, module: str, name: str, kind: Kind) -> str:
        both = self.product(normed, self._matrix(module), f"{name}.rise", kind)
        gate, factor = self.graph.split(both, [f"{name}.bent", f"{name}.factor"])
        return self.graph.node(
            "Mul", [self.graph.node("Gelu", [gate], f"{name}.gelu", FUSED), factor], f"{name}.inner"
        )

    def _norm(self, hidden: str, module: str, name: str) -> str:
        return self.graph.norm(hidden, self.state, module, name, self.shape.norm_epsilon)

    def _add(self, stream: str, added: str | None, module: str, name: str) -> str:
        """Add the output of a sublayer, or the bias of a dropped one if it has one, to the residual stream."""
        if added is None:
            if f"{module}.bias" not in self.state:
                return stream
            added = self.graph.weight(f"{module}.bias", self.state[f"{module}.bias"])
        return self.graph.node("Sum", [stream, added], f"{name}.stream")  # not Add: see Layers._add_and_norm

    def _is_global(self, index: int) -> bool:
        return index % settings_of(self.shape).global_every == 0


def has_windows(shape: Architecture) -> bool:
    """Return whether a text can be so long that a local window hides some of its tokens."""
    return settings_of(shape).window // 2 < shape.positions - 1


def _scope(is_global: bool) -> str:
    return "global" if is_global else "local"


def _angles(graph: Graph, name: str, shape: Architecture, theta: float) -> None:
    """Add the cosines and sines of all positions, (positions, head_size / 2).

    They are computed with torch, because the results for large positions depend on the implementation.
    """
    cosine_and_sine = angles(torch.arange(shape.positions), shape.head_size, theta)
    for end, values in zip(("cosine", "sine"), cosine_and_sine, strict=True):
        graph.weight(f"{name}.{end}", values[:, : shape.head_size // 2].numpy())


def _window(graph: Graph, reach: int) -> None:
    """Add `window`, (1, 1, tokens, tokens): 0 where two tokens are at most `reach` apart, else MASKED_SCORE."""
    for name, value in (("begin", 0), ("step", 1), ("reach", reach)):
        graph.weight(f"window.{name}", np.int64(value))
    for name, axes in (("rows", [0, 1, 3]), ("columns", [0, 1, 2])):
        graph.weight(f"window.{name}.axes", np.array(axes, dtype=np.int64))
    length = graph.node("Squeeze", ["length"], "window.length")
    positions = graph.node("Range", ["window.begin", length, "window.step"], "window.places")
    both = [graph.node("Unsqueeze", [positions, f"window.{n}.axes"], f"window.{n}") for n in ("rows", "columns")]
    distance = graph.node("Abs", [graph.node("Sub", both, "window.difference")], "window.distance")
    outside = graph.node("Greater", [distance, "window.reach"], "window.hidden")
    to = TensorProto.FLOAT16 if graph.half else TensorProto.FLOAT
    mask = graph.node("Cast", [outside], "window.share", to=to)
    graph.node("Mul", [mask, graph.weight("window.beyond", np.float32(MASKED_SCORE))], "window")
