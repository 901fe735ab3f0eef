"""to_onnx(), write_int8() and write_fp16(): Classifier → ONNX, written with ONNX Runtime's fused operators directly.

Exporting a traced graph and letting an optimizer find the patterns again is a lottery that loses silently, and so is
quantizing such a graph with ONNX Runtime's tools; writing the fused and the int8 operators cannot. `export.graph`
still counts them in the session that runs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from export.layers import Layers
from export.modern import ModernLayers
from export.nodes import FUSED, INPUTS, Graph
from export.precision import Precision, Scales
from export.words import TableBits, write_words
from models.architecture import Architecture
from models.classifier import Classifier

PROJECTION = "encoder.embeddings.project"
# never quantized: no time in them, and answers are made in the head; ELECTRA's projection is where texts come in


def to_onnx(model: Classifier, path: Path, pair: bool) -> None:
    """Write `model` to `path` in fp32.

    Inputs: input_ids, attention_mask and, for pairs in a family that tells their texts apart, token_type_ids, all
    int64 (batch, tokens). Output: logits (batch, labels).
    """
    graph = Graph()
    inputs = _write(model, graph, pair, (Precision.all_fp32(model.architecture), None))
    graph.save(path, inputs, model.labels)


def write_fp16(model: Classifier, path: Path, pair: bool) -> None:
    """Write `model` to `path` in fp16 for GPUs; inputs and output are those of `to_onnx`, logits float32.

    Attention gets the lengths of the texts and no mask, with which ONNX Runtime's fused kernels on GPUs can work.
    Padding is on the right, as `Tokenizer.pad` puts it.
    """
    graph = Graph(half=True)
    inputs = _write(model, graph, pair, (Precision.all_fp32(model.architecture), None))
    graph.save(path, inputs, model.labels)


def write_int8(
    model: Classifier, path: Path, pair: bool, scales: Scales | None, precision: Precision | None = None
) -> None:
    """Write `model` to `path` with int8 sublayers and a rounded token table; inputs and output are `to_onnx`'s.

    Args:
        model: in fp32; its weights are rounded here, one scale a column.
        path: the file.
        pair: whether a row is two texts.
        scales: of the activations, fixed (`compress.calibrate`), so that batch mates never change an answer; None:
            dynamic, one scale a batch, taken as it comes.
        precision: of each sublayer; None: all int8 with weights of 8 bits.
    """
    graph, precision = Graph(), precision or Precision.all_int8(model.architecture)
    inputs = _write(model, graph, pair, (precision, scales), precision.embedding_bits)
    graph.save(path, inputs, model.labels)


def _write(
    model: Classifier, graph: Graph, pair: bool, plan: tuple[Precision, Scales | None], table_bits: TableBits = 32
) -> tuple[str, ...]:
    """Add the whole model to `graph`, and return the names of its inputs."""
    shape = model.architecture
    typed = pair and shape.token_types > 1
    state = {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
    hidden = _embeddings(graph, state, shape, typed, table_bits)
    mask = "attention_mask"
    if graph.half:
        graph.weight("tokens.axis", np.array([1], dtype=np.int64))
        mask = graph.node("ReduceSum", [mask, "tokens.axis"], "text.lengths", keepdims=0)
    graph.node("Cast", [mask], "mask", to=TensorProto.INT32)
    layers = (Layers if shape.modern is None else ModernLayers)(graph, state, shape, *plan)
    layers.prepare()
    for index in range(len(shape.layers)):
        hidden = layers.write(index, hidden)
    logits = _head(graph, state, shape, layers.finish(hidden))
    if graph.half:
        graph.node("Cast", [logits], "logits", to=TensorProto.FLOAT)
    return INPUTS if typed else INPUTS[:2]


def _embeddings(graph: Graph, state: Mapping[str, Any], shape: Architecture, typed: bool, bits: TableBits) -> str:
    ours = "encoder.embeddings"
    graph.weight("zero", np.array([0], dtype=np.int64))
    words = write_words(graph, state[f"{ours}.tokens.weight"], bits)
    length = graph.node("Shape", ["input_ids"], "length", start=1, end=2)
    if shape.modern is not None:  # positions are angles in its attention
        return graph.norm(words, state, f"{ours}.norm", "hidden", shape.norm_epsilon)
    positions = state[f"{ours}.positions.weight"]
    if shape.token_types and not typed:
        positions = positions + state[f"{ours}.types.weight"][0]  # a single text has segment 0 only
    graph.weight("positions", positions)
    places = graph.node("Slice", ["positions", "zero", length, "zero"], "places")
    summed = graph.node("Add", [words, places], "embedded")
    if typed:
        types = graph.weight("types", state[f"{ours}.types.weight"])
        segments = graph.node("Gather", [types, "token_type_ids"], "segments")
        summed = graph.node("Add", [summed, segments], "embedded.segments")
    hidden = graph.norm(summed, state, f"{ours}.norm", "hidden", shape.norm_epsilon)
    if shape.table_width == shape.width:
        return hidden
    return _linear(graph, state, PROJECTION, hidden, "hidden.projected")


def _head(graph: Graph, state: Mapping[str, Any], shape: Architecture, hidden: str) -> str:
    one = graph.weight("one", np.array([1], dtype=np.int64))
    if shape.pooling == "mean":
        pooled = _mean(graph, hidden, one)
    else:
        pooled = graph.node("Squeeze", [hidden, one], "first.token")
    dense = _linear(graph, state, "head.dense", pooled, "head.biased")
    match shape.head_activation:
        case "tanh":
            bent = graph.node("Tanh", [dense], "head.tanh")
        case "relu":
            bent = graph.node("Relu", [dense], "head.relu")
        case "gelu":
            bent = graph.node("Gelu", [dense], "head.gelu", FUSED)
    if "head.norm.weight" in state:
        bent = graph.norm(bent, state, "head.norm", "head.normed", shape.norm_epsilon)
    return _linear(graph, state, "head.out", bent, "logits.half" if graph.half else "logits")


def _mean(graph: Graph, hidden: str, axis: str) -> str:
    """Add the mean over the real tokens, (batch, width)."""
    to = TensorProto.FLOAT16 if graph.half else TensorProto.FLOAT
    real = graph.node("Cast", ["attention_mask"], "real", to=to)
    column = graph.node("Unsqueeze", [real, graph.weight("last.axis", np.array([2], dtype=np.int64))], "real.column")
    kept = graph.node("Mul", [hidden, column], "real.states")
    total = graph.node("ReduceSum", [kept, axis], "real.total", keepdims=0)
    count = graph.node("ReduceSum", [real, axis], "real.count", keepdims=1)
    return graph.node("Div", [total, count], "real.mean")


def _linear(graph: Graph, state: Mapping[str, Any], module: str, hidden: str, result: str) -> str:
    weight = graph.weight(f"{module}.weight", state[f"{module}.weight"].T)
    if f"{module}.bias" not in state:
        return graph.node("MatMul", [hidden, weight], result)
    product = graph.node("MatMul", [hidden, weight], module)
    return graph.node("Add", [product, graph.weight(f"{module}.bias", state[f"{module}.bias"])], result)
