"""MPNetLayers: write MPNet's layers as ONNX nodes: BERT's layers, with a bias of the attention for the distance.

The bias depends on the number of tokens only. The file holds it by distance; the graph spreads it over queries and
keys once for all layers, and a layer that lost heads copies the planes of those that it kept. To gather each of the
tokens² entries by its index, in each layer, makes int8 layers slower (docs/results/quantization.md).
"""

from dataclasses import dataclass

import numpy as np

from export.layers import Layers
from models.encoders.mpnet_encoder import distance_classes


@dataclass(frozen=True, slots=True)
class MPNetLayers(Layers):
    """Writes MPNet's layers into a graph."""

    def prepare(self) -> None:
        """Add `relative.first`, (1, heads, 1, tokens), the bias of the first token, and `relative.bias` of all.

        Column k of `used` is the bias of the distance k + 1 - tokens. The 2 · tokens columns are repeated for each
        query; cut into rows that are one shorter, each row begins one distance lower than the row before.
        """
        graph, table = self.graph, self.state["encoder.relative.weight"]  # (classes, heads)
        positions, heads = self.shape.positions, table.shape[1]
        classes = distance_classes(positions + 1)[1:].numpy()  # of the distances 1 - positions to positions
        graph.weight("relative.table", np.ascontiguousarray(table[classes].T)[None, :, None])
        for name, values in (("one", [1]), ("two", [2]), ("positions", [positions]), ("axis", [3]), ("rest", [-1])):
            graph.weight(f"relative.{name}", np.array(values, dtype=np.int64))
        graph.weight("relative.planes", np.array([1, heads], dtype=np.int64))
        graph.weight("relative.ones", np.array([1, 1], dtype=np.int64))
        low = graph.node("Sub", ["relative.positions", "length"], "relative.low")
        high = graph.node("Add", ["relative.positions", "length"], "relative.high")
        used = graph.node("Slice", ["relative.table", low, high, "relative.axis"], "relative.used")
        begin = graph.node("Sub", ["length", "relative.one"], "relative.begin")
        twice = graph.node("Mul", ["length", "relative.two"], "relative.twice")
        end = graph.node("Sub", [twice, "relative.one"], "relative.end")
        graph.node("Slice", [used, begin, end, "relative.axis"], "relative.first")
        repeats = graph.node("Concat", ["relative.ones", "length", "relative.one"], "relative.repeats", axis=0)
        repeated = graph.node("Expand", [used, repeats], "relative.repeated")  # (1, heads, tokens, 2 * tokens)
        flat_shape = graph.node("Concat", ["relative.planes", "relative.rest"], "relative.flat.shape", axis=0)
        flat = graph.node("Reshape", [repeated, flat_shape], "relative.flat")
        size = graph.node("Mul", ["length", end], "relative.size")
        cut = graph.node("Slice", [flat, "zero", size, "relative.two"], "relative.cut")
        rows_shape = graph.node("Concat", ["relative.planes", "length", end], "relative.rows.shape", axis=0)
        rows = graph.node("Reshape", [cut, rows_shape], "relative.rows")
        graph.node("Slice", [rows, begin, end, "relative.axis"], "relative.bias")

    def score_bias(self, index: int) -> tuple[str, ...]:
        """Return the name of the bias of the heads of layer `index`."""
        whole = "relative.first" if self.shape.first_only(index) else "relative.bias"
        columns = self.state.get(f"encoder.layers.{index}.attention.columns.weight")
        if columns is None:
            return (whole,)
        kept = self.graph.weight(f"layer{index}.heads", columns)
        return (self.graph.node("Gather", [whole, kept], f"layer{index}.bias", axis=1),)
