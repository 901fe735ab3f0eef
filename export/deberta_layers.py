"""DebertaLayers: write DeBERTa's layers as ONNX nodes; its attention scores include relative positions.

ONNX Runtime has no operator for disentangled attention. MultiHeadAttention computes the scores of queries and keys,
the softmax and the product with the values; the scores of positions are its bias. The keys and queries of positions
depend on weights only: they are constants, computed here. Only the positions that occur in a text of this length are
multiplied, and GatherElements finds the score of each pair of tokens in the product. Other forms are slower
(docs/results/deberta.md). Where the products of tokens are int8, the constants are int8 in the file, with a scale for
each position and head; ONNX Runtime multiplies them out once, when it opens the file.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from onnx import TensorProto

from export.graph_builder import FUSED, Graph
from export.graph_precision import Floats, Kind, quantized_weight
from export.layers import Layers, Matrix
from models.encoders.deberta_encoder import deberta_settings, position_rows, projection_rows

ENDS = ("weight", "bias")
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DebertaLayers(Layers):
    """Writes DeBERTa's layers into a graph; all but the attention is as in BERT."""

    def prepare(self) -> None:
        """Add the nodes that all layers share: where in the products with positions the score of each pair is.

        `index.HEADS.c2p`, (batch, heads, queries, keys), and `index.HEADS.p2c`, (batch, heads, keys, queries).
        """
        graph, settings = self.graph, deberta_settings(self.shape)
        if not settings.relative:
            return
        graph.weight("places.one", np.array([1], dtype=np.int64))
        graph.weight("places.most", np.array([self.shape.positions], dtype=np.int64))
        graph.weight("places.rows", self._rows())
        before = graph.node("Sub", ["length", "places.one"], "places.before")
        first = graph.node("Sub", ["places.most", "length"], "places.first")
        stop = graph.node("Add", ["places.most", before], "places.end")
        rows = graph.node("Slice", ["places.rows", first, stop, "zero"], "places.used")  # of distances 1 - n to n - 1
        begin = graph.node("Gather", [rows, "zero"], "places.begin")
        highest = graph.node("Gather", [rows, graph.node("Add", [before, before], "places.last")], "places.highest")
        graph.node("Add", [highest, "places.one"], "places.stop")
        row = graph.node("Gather", [rows, _distances(graph)], "places.row")
        wide = graph.node("Sub", [row, begin], "index.wide")
        index = graph.node("Cast", [wide], "index", to=TensorProto.INT32)  # half of the memory, once expanded
        turned = graph.node("Transpose", [index], "index.turned", perm=[1, 0])
        batch = graph.node("Shape", ["input_ids"], "places.batch", start=0, end=1)
        whole = {layer.heads for at, layer in enumerate(self.shape.layers) if not self.shape.first_only(at)}
        for heads in sorted(whole - {0}):
            count = graph.weight(f"index.{heads}.heads", np.array([heads], dtype=np.int64))
            shape = graph.node("Concat", [batch, count, "length", "length"], f"index.{heads}.shape", axis=0)
            for part, source in (("c2p", index), ("p2c", turned)):
                if self._has(part):
                    graph.node("Expand", [source, shape], f"index.{heads}.{part}")

    def _self_attention(self, hidden: str, matrix: Matrix, index: int, kind: Kind) -> str:
        """Add self-attention of all tokens."""
        name, layer = f"layer{index}.attention", self.shape.layers[index]
        whole = self.product(hidden, matrix, f"{name}.qkv", kind)
        query, key, value = self.graph.split(whole, [f"{name}.{part}" for part in ("query", "key", "value")])
        scores = []
        for part, states, projected in (("c2p", query, "key"), ("p2c", key, "query")):
            if self._has(part):
                heads = self._in_heads(states, f"{name}.{part}", layer.heads)
                positions = self._positions(matrix, projected) * self._scale
                table = self._table(f"{name}.{part}.positions", positions, kind)
                scores.append(self._scores(heads, table, f"{layer.heads}.{part}", f"{name}.{part}"))
        if self._has("p2c"):
            scores[-1] = self.graph.node("Transpose", [scores[-1]], f"{name}.p2c.turned", perm=[0, 1, 3, 2])
        bias = scores[0] if len(scores) == 1 else self.graph.node("Add", scores, f"{name}.bias") if scores else ""
        return self._attention([query, key, value, "", "mask", bias], name, layer.heads)

    def _first_token_attention(self, hidden: str, first: str, matrix: Matrix, heads: int, kind: Kind) -> str:
        """Add attention from the first token to all tokens.

        It has one distance to each token, so c2p adds a constant to each key, and p2c is a sum over its products.
        """
        inner = heads * self.shape.head_size
        query = self.product(first, matrix.columns(f"{matrix.name}.query", slice(0, inner)), "last.query", kind)
        both = self.product(hidden, matrix.columns(matrix.name, slice(inner, None)), "last.keys_values", kind)
        key, value = self.graph.split(both, ["last.keys", "last.values"])
        bias, summed = "", key
        if self._has("p2c"):
            self.graph.weight("last.p2c.axis", np.array([2], dtype=np.int64))
            product = self.graph.node("Mul", [key, self._of_first(matrix, "query", self._scale, kind)], "last.p2c")
            split = self.graph.node("Reshape", [product, self._head_axes("last.p2c.axes", heads)], "last.p2c.heads")
            turned = self.graph.node("Transpose", [split], "last.p2c.turned", perm=[0, 2, 3, 1])
            bias = self.graph.node("ReduceSum", [turned, "last.p2c.axis"], "last.bias", keepdims=1)
        if self._has("c2p"):
            summed = self.graph.node("Add", [key, self._of_first(matrix, "key", 1.0, kind)], "last.c2p")
        return self._attention([query, summed, value, "", "mask", bias], "last", heads)

    def _attention(self, inputs: list[str], name: str, heads: int) -> str:
        return self.graph.node(
            "MultiHeadAttention", inputs, f"{name}.mixed", FUSED, num_heads=heads, scale=self._scale
        )

    @property
    def _scale(self) -> float:
        return float((deberta_settings(self.shape).parts * self.shape.head_size) ** -0.5)

    def _has(self, part: str) -> bool:
        settings = deberta_settings(self.shape)
        return settings.relative and getattr(settings, part)

    def _head_axes(self, name: str, heads: int) -> str:
        return self.graph.weight(name, np.array([0, 0, heads, self.shape.head_size], dtype=np.int64))

    def _in_heads(self, states: str, name: str, heads: int) -> str:
        """Add the states as (batch, heads, tokens, head_size)."""
        split = self.graph.node("Reshape", [states, self._head_axes(f"{name}.axes", heads)], f"{name}.split")
        return self.graph.node("Transpose", [split], f"{name}.heads", perm=[0, 2, 1, 3])

    def _scores(self, states: str, table: str, index: str, name: str) -> str:
        """Add the scores of states, (batch, heads, tokens, head_size), with positions, (heads, rows, head_size)."""
        used = self.graph.node("Slice", [table, "places.begin", "places.stop", "places.one"], f"{name}.used")
        product = self.graph.node("FusedMatMul", [states, used], f"{name}.products", FUSED, transB=1)
        return self.graph.node("GatherElements", [product, f"index.{index}"], f"{name}.scores", axis=3)

    def _of_first(self, matrix: Matrix, part: str, scale: float, kind: Kind) -> str:
        """Add the positions of the distances from the first token to the tokens of a text, (tokens, inner)."""
        positions = self._positions(matrix, part)
        rows = self._rows()[self.shape.positions - 1 :: -1]
        name = f"last.positions.{part}"
        in_heads = self._table(f"{name}.heads", positions[:, rows].transpose(1, 0, 2) * scale, kind)
        joined = self.graph.weight(f"{name}.axes", np.array([len(rows), -1], dtype=np.int64))
        table = self.graph.node("Reshape", [in_heads, joined], name)
        return self.graph.node("Slice", [table, "zero", "length", "zero"], f"{name}.used")

    def _table(self, name: str, values: Floats, kind: Kind) -> str:
        """Add a constant whose last axis is one head's part of a position; for int8 with one scale for each."""
        if kind == "fp32":
            return self.graph.weight(name, values.astype(np.float32))
        steps, scale = quantized_weight(values.reshape(-1, values.shape[-1]).T, 8)
        self.graph.weight(f"{name}.s8", steps.T.reshape(values.shape))
        self.graph.weight(f"{name}.scale", scale.reshape(*values.shape[:-1], 1))
        floats = self.graph.node("Cast", [f"{name}.s8"], f"{name}.cast", to=TensorProto.FLOAT)
        return self.graph.node("Mul", [floats, f"{name}.scale"], name)

    def _rows(self) -> Indices:
        """Return the row in `_positions` of each distance, (2 · positions - 1,), ascending."""
        rows: Indices = position_rows(self.shape.positions, deberta_settings(self.shape)).numpy()
        return rows - rows[0]

    def _positions(self, matrix: Matrix, part: str) -> Floats:
        """Return the keys or queries of relative positions that can occur, (heads, rows, head_size)."""
        relative = torch.from_numpy(self.state["encoder.embeddings.relative.weight"])
        if deberta_settings(self.shape).norm_relative:
            gain, shift = (torch.from_numpy(self.state[f"encoder.embeddings.relative_norm.{end}"]) for end in ENDS)
            relative = functional.layer_norm(relative, gain.shape, gain, shift, self.shape.norm_epsilon)
        own = matrix.name.removesuffix("qkv") + f"pos_{part}"
        inner = len(self.state[f"{matrix.name}.bias"]) // 3
        if f"{own}.weight" in self.state:
            weight, bias = (self.state[f"{own}.{end}"] for end in ENDS)
        else:
            rows = projection_rows(part, inner)
            weight, bias = (self.state[f"{matrix.name}.{end}"][rows] for end in ENDS)
        used = position_rows(self.shape.positions, deberta_settings(self.shape))
        projected = relative[used[0] : used[-1] + 1].numpy() @ weight.T + bias
        return projected.reshape(len(projected), -1, self.shape.head_size).transpose(1, 0, 2)


def _distances(graph: Graph) -> str:
    """Add (tokens, tokens): the distance of each query and key, plus n - 1."""
    for name, value in (("begin", 0), ("step", 1)):
        graph.weight(f"distance.{name}", np.int64(value))
    length = graph.node("Squeeze", ["length"], "distance.length")
    positions = graph.node("Range", ["distance.begin", length, "distance.step"], "distance.positions")
    shifted = graph.node("Add", [positions, "places.before"], "distance.shifted")
    rows = graph.node("Unsqueeze", [shifted, "places.one"], "distance.rows")
    return graph.node("Sub", [rows, positions], "distance")
