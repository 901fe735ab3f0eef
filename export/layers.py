"""Layers: one encoder layer as ONNX nodes, each sublayer in fp32, in int8 with fixed scales, or in dynamic int8.

Only the products with constant weights are int8. What is added, normalized, bent by GELU or put through a softmax is
float, and a tensor that is quantized for one reader stays float for the others. What was measured for each choice of
operator is in docs/log.md and docs/results/quantization.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from export.nodes import FUSED, Graph
from export.precision import Floats, Kind, Precision, Scales, quantized_weight
from models.architecture import Architecture, LayerShape


@dataclass(frozen=True, slots=True)
class Matrix:
    """(x · weight + bias) · gain: weight (inputs, outputs), bias and gain (outputs,); named as in Scales."""

    name: str
    weight: Floats
    bias: Floats
    gain: Floats

    def columns(self, name: str, kept: slice) -> "Matrix":
        """Return some of its outputs as a matrix of its own."""
        return Matrix(name, self.weight[:, kept], self.bias[kept], self.gain[kept])


@dataclass(frozen=True, slots=True)
class Layers:
    """Writes layers into a graph. `state` has torch's names; without `scales` int8 is dynamic."""

    graph: Graph
    state: Mapping[str, Any]
    shape: Architecture
    precision: Precision
    scales: Scales | None

    def prepare(self) -> None:
        """Add what all layers read, before the first: nothing here."""

    def finish(self, hidden: str) -> str:
        """Add what comes after the last: nothing here."""
        return hidden

    def write(self, index: int, hidden: str) -> str:
        """Add layer `index`, (batch, tokens, width) → the same; the last gives the first token, (batch, 1, width).

        No other token's last state feeds the head, so only keys and values are made of all tokens there.
        """
        name, module, last = f"layer{index}", f"encoder.layers.{index}", index == len(self.shape.layers) - 1
        kinds, layer = self.precision.layers[index], self.shape.layers[index]
        first = self.graph.node("Gather", [hidden, "zero"], "first", axis=1) if last else hidden
        added = None
        if layer.heads:
            kind = kinds.attention
            qkv = self._qkv(f"{module}.attention", kind)
            if last:
                mixed = self._mix_first(hidden, first, qkv, layer.heads, kind)
            else:
                mixed = self._mix(hidden, qkv, f"{name}.attention", layer, kind)
            added = self.product(mixed, self._matrix(f"{module}.attention.output"), f"{name}.attention.output", kind)
        hidden = self._add_and_norm(first, added, f"{module}.attention", f"{name}.attention.norm")
        added = None
        if layer.ffn:
            inner = self._rise(hidden, self._matrix(f"{module}.ffn.rise"), f"{name}.ffn", kinds.ffn)
            added = self.product(inner, self._matrix(f"{module}.ffn.fall"), f"{name}.ffn.fall", kinds.ffn)
        return self._add_and_norm(hidden, added, f"{module}.ffn", f"{name}.ffn.norm")

    def _rise(self, hidden: str, matrix: Matrix, name: str, kind: Kind) -> str:
        """Add GELU(x · W + b)."""
        if self.graph.half:
            weight = self.graph.weight(f"{matrix.name}.weight", matrix.weight)
            product = self.graph.node("MatMul", [hidden, weight], f"{name}.rise")
            return self.graph.node("BiasGelu", [product, self._bias(matrix, kind)], f"{name}.gelu", FUSED)
        return self.graph.node("Gelu", [self.product(hidden, matrix, f"{name}.rise", kind)], f"{name}.gelu", FUSED)

    def product(self, source: str, matrix: Matrix, name: str, kind: Kind) -> str:
        """Add x · W + b; float in, float out."""
        bias = self._bias(matrix, kind)
        if kind == "fp32":
            weight = self.graph.weight(f"{matrix.name}.weight", matrix.weight)
            if not bias:
                return self.graph.node("MatMul", [source, weight], name)
            product = self.graph.node("MatMul", [source, weight], f"{name}.product")
            return self.graph.node("Add", [product, bias], name)
        weight, columns = self._int8(matrix)
        if self.scales is None:
            return self.graph.node("DynamicQuantizeMatMul", [source, weight, columns, "", bias], name, FUSED)
        rounded, scale, zero = self._rounded(source, matrix, name)
        inputs = [rounded, weight, scale, columns, zero, "", bias]
        return self.graph.node("MatMulIntegerToFloat", inputs, name, FUSED)

    def _mix(self, hidden: str, matrix: Matrix, name: str, layer: LayerShape, kind: Kind) -> str:
        """Add self-attention of all tokens in one operator, the product with the QKV matrix included."""
        bias = self._bias(matrix, kind)
        if kind == "fp32":
            inputs = [hidden, self.graph.weight(f"{matrix.name}.weight", matrix.weight), bias, "mask"]
            return self.graph.node("Attention", inputs, name, FUSED, num_heads=layer.heads)
        weight, columns = self._int8(matrix)
        rounded, scale, zero = self._rounded(hidden, matrix, name)
        inputs = [rounded, weight, bias, scale, columns, "mask", zero]
        return self.graph.node("QAttention", inputs, name, FUSED, num_heads=layer.heads)

    def _mix_first(self, hidden: str, first: str, matrix: Matrix, heads: int, kind: Kind) -> str:
        """Add attention of the first token to all: one query, keys and values of every token."""
        inner = heads * self.shape.head_size
        query = self.product(first, matrix.columns(f"{matrix.name}.query", slice(0, inner)), "last.query", kind)
        both = self.product(hidden, matrix.columns(matrix.name, slice(inner, None)), "last.keys_values", kind)
        key, value = self.graph.split(both, ["last.keys", "last.values"])
        inputs = [query, key, value, "", "mask"]
        return self.graph.node("MultiHeadAttention", inputs, "last.mixed", FUSED, num_heads=heads)

    def _add_and_norm(self, hidden: str, added: str | None, module: str, name: str) -> str:
        """Add residual and norm; a dropped sublayer adds its bias only."""
        computed = added is not None
        if added is None:
            added = self.graph.weight(f"{module}.bias", self.state[f"{module}.bias"])
        ends = [self.graph.weight(f"{module}.norm.{e}", self.state[f"{module}.norm.{e}"]) for e in ("weight", "bias")]
        if self.graph.half and computed:
            inputs, epsilon = [hidden, added, *ends], self.shape.norm_epsilon
            return self.graph.node("SkipLayerNormalization", inputs, name, FUSED, epsilon=epsilon)
        # not Add: that would be fused into SkipLayerNormalization, whose kernel takes three times as long as the pair
        total = self.graph.node("Sum", [hidden, added], f"{name}.sum")
        return self.graph.node("LayerNormalization", [total, *ends], name, axis=-1, epsilon=self.shape.norm_epsilon)

    def _matrix(self, module: str) -> Matrix:
        weight = self.state[f"{module}.weight"].T  # torch keeps (out, in)
        nothing = np.zeros(weight.shape[1], dtype=np.float32)  # ModernBERT's matrices have no bias, unless cut
        return Matrix(module, weight, self.state.get(f"{module}.bias", nothing), np.ones_like(nothing))

    def _qkv(self, module: str, kind: Kind) -> Matrix:
        """Return the matrix of query, key and value, the values smoothed for the output matrix, which costs nothing.

        Attention is linear in the values: it gives smoothed sums of smoothed values.
        """
        matrix = self._matrix(f"{module}.qkv")
        smoothing = self.scales[f"{module}.output"].smoothing if kind == "int8" and self.scales else None
        if smoothing is None:
            return matrix
        return replace(matrix, gain=np.concatenate([matrix.gain[: -len(smoothing)], smoothing]))

    def _int8(self, matrix: Matrix) -> tuple[str, str]:
        weight = matrix.weight if self.scales is None else self.scales[matrix.name].smoothed_weight(matrix.weight)
        values, scale = quantized_weight(weight * matrix.gain, self.precision.weight_bits)
        return (
            self.graph.weight(f"{matrix.name}.weight.s8", values),
            self.graph.weight(f"{matrix.name}.weight.scale", scale),
        )

    def _bias(self, matrix: Matrix, kind: Kind) -> str:
        """Return the name of the bias with int8's correction; none where it is zero."""
        bias = matrix.bias
        if kind == "int8" and self.scales is not None:
            correction = self.scales[matrix.name].correction
            bias = bias if correction is None else bias + correction
        return self.graph.weight(f"{matrix.name}.bias", (bias * matrix.gain).astype(np.float32)) if bias.any() else ""

    def _rounded(self, source: str, matrix: Matrix, name: str) -> tuple[str, str, str]:
        """Add the u8 form of a matrix's input; returned with its scale and zero point."""
        if self.scales is None:
            return self.graph.dynamic_quantize(source, f"{name}.u8")
        activation = self.scales[matrix.name]
        scale = self.graph.weight(f"{matrix.name}.input.scale", np.float32(activation.scale))
        zero = self.graph.weight(f"{matrix.name}.input.zero", np.uint8(activation.zero_point))
        if activation.smoothing is not None and not matrix.name.endswith(".attention.output"):
            smoothing = self.graph.weight(f"{matrix.name}.smoothing", activation.smoothing)
            source = self.graph.node("Mul", [source, smoothing], f"{name}.smoothed")
        return self.graph.node("QuantizeLinear", [source, scale, zero], f"{name}.u8"), scale, zero
