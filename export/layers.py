"""Layers: write encoder layers as ONNX nodes; each sublayer is fp32, int8 with fixed scales, or dynamic int8.

Only the products with constant weights are int8. Residual additions, norms, GELU and softmax are computed in float.
A tensor that is quantized for one node stays float for the other nodes that read it. The measurements behind each
choice of operator are in docs/log.md and docs/results/quantization.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from export.graph_builder import FUSED, Graph
from export.graph_precision import Floats, Kind, Precision, Scales, quantized_weight
from models.architecture import Architecture


@dataclass(frozen=True, slots=True)
class Matrix:
    """A linear layer (x · weight + bias) · gain: weight (inputs, outputs), bias and gain (outputs,).

    `name` is the key in `Scales`.
    """

    name: str
    weight: Floats
    bias: Floats
    gain: Floats

    def columns(self, name: str, columns: slice) -> "Matrix":
        """Return the matrix of some of the outputs, under another name."""
        return Matrix(name, self.weight[:, columns], self.bias[columns], self.gain[columns])


@dataclass(frozen=True, slots=True)
class Layers:
    """Writes layers into a graph. `state` is the model's state_dict; without `scales` int8 is dynamic."""

    graph: Graph
    state: Mapping[str, Any]
    shape: Architecture
    precision: Precision
    scales: Scales | None

    def prepare(self) -> None:
        """Add the nodes and weights that all layers share; BERT has none."""

    def finish(self, hidden: str) -> str:
        """Add the nodes after the last layer; BERT has none."""
        return hidden

    def write(self, index: int, hidden: str) -> str:
        """Add layer `index` and return the name of its output, (batch, tokens, width).

        If the head reads the first token only, so is the output of the last layer, (batch, 1, width); of the other
        tokens only keys and values are computed there.
        """
        name, module, last = f"layer{index}", f"encoder.layers.{index}", self.shape.first_only(index)
        kinds, layer = self.precision.layers[index], self.shape.layers[index]
        residual = self.graph.node("Gather", [hidden, "zero"], "first", axis=1) if last else hidden
        added = None
        if layer.heads:
            kind = kinds.attention
            qkv = self._qkv(f"{module}.attention", kind)
            if last:
                context = self._first_token_attention(hidden, residual, qkv, layer.heads, kind)
            else:
                context = self._self_attention(hidden, qkv, index, kind)
            output = self._matrix(f"{module}.attention.output")
            added = self.product(context, output, f"{name}.attention.output", kind)
        hidden = self._add_and_norm(residual, added, f"{module}.attention", f"{name}.attention.norm")
        added = None
        if layer.ffn:
            inner = self._up_projection(hidden, self._matrix(f"{module}.ffn.rise"), f"{name}.ffn", kinds.ffn)
            added = self.product(inner, self._matrix(f"{module}.ffn.fall"), f"{name}.ffn.fall", kinds.ffn)
        return self._add_and_norm(hidden, added, f"{module}.ffn", f"{name}.ffn.norm")

    def _up_projection(self, hidden: str, matrix: Matrix, name: str, kind: Kind) -> str:
        """Add the first half of the FFN, activation(x · W + b)."""
        if self.graph.half and self.shape.activation != "relu":
            weight = self.graph.weight(f"{matrix.name}.weight", matrix.weight)
            product = self.graph.node("MatMul", [hidden, weight], f"{name}.rise")
            operator = "BiasGelu" if self.shape.activation == "gelu" else "FastGelu"
            return self.graph.node(operator, [product, self._bias(matrix, kind)], f"{name}.gelu", FUSED)
        product = self.product(hidden, matrix, f"{name}.rise", kind)
        match self.shape.activation:
            case "relu":
                return self.graph.node("Relu", [product], f"{name}.relu")
            case "gelu_tanh":
                return self.graph.node("FastGelu", [product], f"{name}.gelu", FUSED)
            case "gelu":
                return self.graph.node("Gelu", [product], f"{name}.gelu", FUSED)

    def product(self, source: str, matrix: Matrix, name: str, kind: Kind) -> str:
        """Add x · W + b, with float input and float output."""
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
        quantized, scale, zero = self._quantized_input(source, matrix, name)
        inputs = [quantized, weight, scale, columns, zero, "", bias]
        return self.graph.node("MatMulIntegerToFloat", inputs, name, FUSED)

    def score_bias(self, index: int) -> tuple[str, ...]:  # noqa: ARG002
        """Return the name of what layer `index` adds to its attention scores, if anything; BERT adds nothing.

        In the last layer these are the scores of the first token only, (1, heads, 1, tokens), else of all tokens.
        """
        return ()

    def _self_attention(self, hidden: str, matrix: Matrix, index: int, kind: Kind) -> str:
        """Add self-attention of all tokens as one operator, which includes the product with the QKV matrix.

        QAttention takes no bias of the scores: int8 layers that have one need two operators.
        """
        name, heads, score_bias = f"layer{index}.attention", self.shape.layers[index].heads, self.score_bias(index)
        if score_bias and kind == "int8":
            whole = self.product(hidden, matrix, f"{name}.qkv", kind)
            states = self.graph.split(whole, [f"{name}.{part}" for part in ("query", "key", "value")])
            inputs = [*states, "", "mask", *score_bias]
            return self.graph.node("MultiHeadAttention", inputs, name, FUSED, num_heads=heads)
        bias = self._bias(matrix, kind)
        if kind == "fp32":
            inputs = [hidden, self.graph.weight(f"{matrix.name}.weight", matrix.weight), bias, "mask"]
            inputs += ["", *score_bias] if score_bias else []
            return self.graph.node("Attention", inputs, name, FUSED, num_heads=heads)
        weight, columns = self._int8(matrix)
        quantized, scale, zero = self._quantized_input(hidden, matrix, name)
        bias = bias or self.graph.weight(f"{matrix.name}.bias", np.zeros_like(matrix.bias))  # QAttention needs one
        inputs = [quantized, weight, bias, scale, columns, "mask", zero]
        return self.graph.node("QAttention", inputs, name, FUSED, num_heads=heads)

    def _first_token_attention(self, hidden: str, first: str, matrix: Matrix, heads: int, kind: Kind) -> str:
        """Add attention from the first token to all tokens: one query, keys and values of every token."""
        inner = heads * self.shape.head_size
        query = self.product(first, matrix.columns(f"{matrix.name}.query", slice(0, inner)), "last.query", kind)
        both = self.product(hidden, matrix.columns(matrix.name, slice(inner, None)), "last.keys_values", kind)
        key, value = self.graph.split(both, ["last.keys", "last.values"])
        inputs = [query, key, value, "", "mask", *self.score_bias(len(self.shape.layers) - 1)]
        return self.graph.node("MultiHeadAttention", inputs, "last.mixed", FUSED, num_heads=heads)

    def _add_and_norm(self, hidden: str, added: str | None, module: str, name: str) -> str:
        """Add the residual sum and the norm; a dropped sublayer (`added` None) contributes its bias only."""
        is_dropped = added is None
        if added is None:
            added = self.graph.weight(f"{module}.bias", self.state[f"{module}.bias"])
        keys = [f"{module}.norm.{key}" for key in ("weight", "bias")]
        weights, epsilon = [self.graph.weight(key, self.state[key]) for key in keys], self.shape.norm_epsilon
        if self.graph.half and not is_dropped:
            inputs = [hidden, added, *weights]
            return self.graph.node("SkipLayerNormalization", inputs, name, FUSED, epsilon=epsilon)
        # Sum, not Add: ONNX Runtime fuses Add and the norm into SkipLayerNormalization, whose CPU kernel takes three
        # times as long as the two operators
        total = self.graph.node("Sum", [hidden, added], f"{name}.sum")
        return self.graph.node("LayerNormalization", [total, *weights], name, axis=-1, epsilon=epsilon)

    def _matrix(self, module: str) -> Matrix:
        weight = self.state[f"{module}.weight"].T  # torch stores (out, in)
        zeros = np.zeros(weight.shape[1], dtype=np.float32)  # ModernBERT's matrices have a bias only after pruning
        return Matrix(module, weight, self.state.get(f"{module}.bias", zeros), np.ones_like(zeros))

    def _qkv(self, module: str, kind: Kind) -> Matrix:
        """Return the QKV matrix; its gain smooths the values for the output matrix.

        Attention is linear in the values, so its output is smoothed by the same factors, and no operator is needed.
        """
        matrix = self._matrix(f"{module}.qkv")
        smoothing = self.scales[f"{module}.output"].smoothing if kind == "int8" and self.scales else None
        if smoothing is None:
            return matrix
        return replace(matrix, gain=np.concatenate([matrix.gain[: -len(smoothing)], smoothing]))

    def _int8(self, matrix: Matrix) -> tuple[str, str]:
        """Add the int8 weights of a matrix, and return the names of values and column scales."""
        weight = matrix.weight if self.scales is None else self.scales[matrix.name].smoothed_weight(matrix.weight)
        values, scale = quantized_weight(weight * matrix.gain, self.precision.weight_bits)
        return (
            self.graph.weight(f"{matrix.name}.weight.s8", values),
            self.graph.weight(f"{matrix.name}.weight.scale", scale),
        )

    def _bias(self, matrix: Matrix, kind: Kind) -> str:
        """Add the bias, for int8 with the correction of its mean error; return its name, or "" if it is zero."""
        bias = matrix.bias
        if kind == "int8" and self.scales is not None:
            correction = self.scales[matrix.name].correction
            bias = bias if correction is None else bias + correction
        return self.graph.weight(f"{matrix.name}.bias", (bias * matrix.gain).astype(np.float32)) if bias.any() else ""

    def _quantized_input(self, source: str, matrix: Matrix, name: str) -> tuple[str, str, str]:
        """Quantize the input of a matrix to u8; return the names of values, scale and zero point."""
        if self.scales is None:
            return self.graph.dynamic_quantize(source, f"{name}.u8")
        activation = self.scales[matrix.name]
        scale = self.graph.weight(f"{matrix.name}.input.scale", np.float32(activation.scale))
        zero = self.graph.weight(f"{matrix.name}.input.zero", np.uint8(activation.zero_point))
        if activation.smoothing is not None and not matrix.name.endswith(".attention.output"):
            smoothing = self.graph.weight(f"{matrix.name}.smoothing", activation.smoothing)
            source = self.graph.node("Mul", [source, smoothing], f"{name}.smoothed")
        return self.graph.node("QuantizeLinear", [source, scale, zero], f"{name}.u8"), scale, zero
