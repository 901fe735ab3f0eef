"""to_onnx(): Classifier → ONNX, written with ONNX Runtime's fused operators directly.

Exporting a traced graph and letting an optimizer find the patterns again is a lottery that loses silently; writing
the fused operators (Attention, SkipLayerNormalization, BiasGelu of com.microsoft) cannot. `export.graph` still counts
them in the session that runs. The last layer's output is computed for the first token only: no other feeds the head.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.architecture import Architecture
from models.classifier import Classifier
from models.errors import InputError

OPSET = 18
FUSED = "com.microsoft"
PROJECTION = "encoder.embeddings.project"
# never quantized: no time in them, and answers are made in the head; ELECTRA's projection is where texts come in
HEAD_NODES = ("head.dense", "head.out", PROJECTION)


class _Graph:
    """Nodes and weights in the order in which they were asked for."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, array: NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], name: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, domain=domain, **attributes))
        return name


def to_onnx(model: Classifier, path: Path, pair: bool, int8_embeddings: bool = False) -> None:
    """Write `model` to `path`.

    Inputs: input_ids, attention_mask and, for pairs in a family that tells their texts apart, token_type_ids, all
    int64 (batch, tokens). Output: logits (batch, labels). With `int8_embeddings` the token table is int8 with one
    scale a row.

    Raises:
        InputError: the model is of a family that has no graph here.
    """
    shape = model.architecture
    if shape.family == "modernbert":
        raise InputError(
            "a modernbert model cannot be exported yet: the graph has no rotary positions, local attention or GeGLU; "
            "start from a bert, roberta, xlm-roberta, distilbert or electra checkpoint"
        )
    typed = pair and shape.token_types > 1
    state = {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
    graph = _Graph()
    hidden = _embeddings(graph, state, shape, typed, int8_embeddings)
    graph.node("Cast", ["attention_mask"], "mask", to=TensorProto.INT32)
    for index in range(len(shape.layers)):
        hidden = _layer(graph, state, shape, index, hidden)
    _head(graph, state, shape, hidden)
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if typed else [])]
    proto = helper.make_graph(
        graph.nodes,
        "prunella",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in inputs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", model.labels])],
        graph.weights,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, 1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(proto, opset_imports=opsets, ir_version=9, producer_name="prunella"), str(path))


def _embeddings(graph: _Graph, state: dict[str, Any], shape: Architecture, typed: bool, int8: bool) -> str:
    ours = "encoder.embeddings"
    positions = state[f"{ours}.positions.weight"]
    if shape.token_types and not typed:
        positions = positions + state[f"{ours}.types.weight"][0]  # a single text has segment 0 only
    graph.weight("positions", positions)
    graph.weight("zero", np.array([0], dtype=np.int64))
    length = graph.node("Shape", ["input_ids"], "length", start=1, end=2)
    places = graph.node("Slice", ["positions", "zero", length, "zero"], "places")
    summed = graph.node("Add", [_words(graph, state[f"{ours}.tokens.weight"], int8), places], "embedded")
    if typed:
        types = graph.weight("types", state[f"{ours}.types.weight"])
        segments = graph.node("Gather", [types, "token_type_ids"], "segments")
        summed = graph.node("Add", [summed, segments], "embedded.segments")
    gamma, beta = (graph.weight(f"norm.{end}", state[f"{ours}.norm.{end}"]) for end in ("weight", "bias"))
    hidden = graph.node("LayerNormalization", [summed, gamma, beta], "hidden", axis=-1, epsilon=shape.norm_epsilon)
    if shape.table_width == shape.width:
        return hidden
    return _linear(graph, state, PROJECTION, hidden, "hidden.projected")


def _words(graph: _Graph, table: NDArray[np.float32], int8: bool) -> str:
    if not int8:
        return graph.node("Gather", [graph.weight("tokens", table), "input_ids"], "words")
    scale = np.maximum(np.abs(table).max(axis=1, keepdims=True), 1e-8) / 127.0
    graph.weight("tokens.int8", np.round(table / scale).astype(np.int8))
    graph.weight("tokens.scale", scale.astype(np.float32))
    rows = graph.node("Cast", [graph.node("Gather", ["tokens.int8", "input_ids"], "rows.int8")], "rows", to=1)
    scales = graph.node("Gather", ["tokens.scale", "input_ids"], "rows.scale")
    return graph.node("Mul", [rows, scales], "words")


def _layer(graph: _Graph, state: dict[str, Any], shape: Architecture, index: int, hidden: str) -> str:
    ours, name = f"encoder.layers.{index}", f"layer{index}"
    layer, last = shape.layers[index], index == len(shape.layers) - 1

    def matrix(part: str) -> str:  # torch keeps (out, in), MatMul wants (in, out)
        return graph.weight(f"{name}.{part}.weight", state[f"{ours}.{part}.weight"].T)

    def vector(part: str) -> str:
        return graph.weight(f"{name}.{part}", state[f"{ours}.{part}"])

    mixed = None
    if layer.heads:
        inputs = [hidden, matrix("attention.qkv"), vector("attention.qkv.bias"), "mask"]
        mixed = graph.node("Attention", inputs, f"{name}.attention", FUSED, num_heads=layer.heads)
    if last:  # (batch, tokens, n) → (batch, 1, n)
        hidden = graph.node("Gather", [hidden, "zero"], "first", axis=1)
        mixed = graph.node("Gather", [mixed, "zero"], "first.mixed", axis=1) if mixed else None
    if mixed:
        mixed = graph.node("MatMul", [mixed, matrix("attention.output")], f"{name}.attention.output")
    bias = vector("attention.output.bias" if layer.heads else "attention.bias")
    hidden = _norm(graph, (hidden, mixed, bias), f"{name}.attention.norm", vector, shape.norm_epsilon)
    inner = None
    if layer.ffn:
        inner = graph.node("MatMul", [hidden, matrix("ffn.rise")], f"{name}.ffn.rise")
        inner = graph.node("BiasGelu", [inner, vector("ffn.rise.bias")], f"{name}.ffn.gelu", FUSED)
        inner = graph.node("MatMul", [inner, matrix("ffn.fall")], f"{name}.ffn.fall")
    bias = vector("ffn.fall.bias" if layer.ffn else "ffn.bias")
    return _norm(graph, (hidden, inner, bias), f"{name}.ffn.norm", vector, shape.norm_epsilon)


def _norm(graph: _Graph, parts: tuple[str, str | None, str], name: str, vector: Any, epsilon: float) -> str:
    hidden, added, bias = parts
    gamma, beta = (vector(f"{name.split('.', 1)[1]}.{end}") for end in ("weight", "bias"))
    if added is None:  # a dropped sublayer
        moved = graph.node("Add", [hidden, bias], f"{name}.moved")
        return graph.node("LayerNormalization", [moved, gamma, beta], name, axis=-1, epsilon=epsilon)
    return graph.node("SkipLayerNormalization", [added, hidden, gamma, beta, bias], name, FUSED, epsilon=epsilon)


def _head(graph: _Graph, state: dict[str, Any], shape: Architecture, hidden: str) -> None:
    first = graph.node("Squeeze", [hidden, graph.weight("one", np.array([1], dtype=np.int64))], "first.token")
    dense = _linear(graph, state, "head.dense", first, "head.biased")
    match shape.head_activation:
        case "tanh":
            bent = graph.node("Tanh", [dense], "head.tanh")
        case "relu":
            bent = graph.node("Relu", [dense], "head.relu")
        case "gelu":
            bent = graph.node("Gelu", [dense], "head.gelu", FUSED)
    _linear(graph, state, "head.out", bent, "logits")


def _linear(graph: _Graph, state: dict[str, Any], module: str, hidden: str, result: str) -> str:
    weight = graph.weight(f"{module}.weight", state[f"{module}.weight"].T)
    product = graph.node("MatMul", [hidden, weight], module)
    return graph.node("Add", [product, graph.weight(f"{module}.bias", state[f"{module}.bias"])], result)
