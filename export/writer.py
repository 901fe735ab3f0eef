"""to_onnx(), write_int8() and write_fp16(): write a Classifier as ONNX with ONNX Runtime's fused operators.

The usual way is to trace the model, to let an optimizer detect the patterns to fuse, and to quantize that graph with
ONNX Runtime's tools. Both tools can miss a pattern without an error. Here the fused and the int8 operators are
written directly. `export.fused_operators` still counts them in the graph that ONNX Runtime executes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from export.deberta_layers import DebertaLayers
from export.embedding_table import TableBits, write_embedding_table
from export.graph_builder import FUSED, INPUTS, Graph
from export.graph_precision import Precision, Scales
from export.layers import Layers
from export.modernbert_layers import ModernLayers
from export.mpnet_layers import MPNetLayers
from models.architecture import Architecture
from models.classifier import Classifier
from models.families import FAMILIES

# ELECTRA's projection of the embeddings. Like the head it is never quantized: both take almost no time, and one is at
# the input of the model, the other at its output.
PROJECTION = "encoder.embeddings.project"
# all other families: Layers
LAYERS: dict[str, type[Layers]] = {"modernbert": ModernLayers, "mpnet": MPNetLayers, "deberta-v2": DebertaLayers}


def to_onnx(model: Classifier, path: Path, pair: bool) -> None:
    """Write `model` to `path` in fp32.

    Inputs: input_ids, attention_mask and, for pairs in a family with two segment embeddings, token_type_ids, all
    int64 (batch, tokens). Output: logits (batch, labels).
    """
    graph = Graph()
    inputs = _write(model, graph, pair, (Precision.all_fp32(model.architecture), None))
    graph.save(path, inputs, model.labels)


def write_fp16(model: Classifier, path: Path, pair: bool) -> None:
    """Write `model` to `path` in fp16 for GPUs; inputs and output are those of `to_onnx`, with float32 logits.

    Attention gets the lengths of the texts instead of a mask, because ONNX Runtime's fused GPU kernels need that. So
    padding must be on the right, as `Tokenizer.pad` adds it.
    """
    graph = Graph(half=True)
    inputs = _write(model, graph, pair, (Precision.all_fp32(model.architecture), None))
    graph.save(path, inputs, model.labels)


def write_int8(
    model: Classifier, path: Path, pair: bool, scales: Scales | None, precision: Precision | None = None
) -> None:
    """Write `model` to `path` with int8 sublayers and a quantized embedding table.

    Inputs and output are those of `to_onnx`.

    Args:
        model: the model in fp32; its weights are quantized here, with one scale per column.
        path: the file.
        pair: whether a row is two texts.
        scales: fixed scales of the activations (`compress.quantization.calibration`), so that an answer does not
            depend on the other texts of the batch; None: dynamic quantization, with one scale per batch.
        precision: of each sublayer; None: all int8 with weights of 8 bits.
    """
    graph, precision = Graph(), precision or Precision.all_int8(model.architecture)
    inputs = _write(model, graph, pair, (precision, scales), precision.embedding_bits)
    graph.save(path, inputs, model.labels)


def _write(
    model: Classifier, graph: Graph, pair: bool, plan: tuple[Precision, Scales | None], table_bits: TableBits = 32
) -> tuple[str, ...]:
    """Add the model to `graph`, and return the names of its inputs."""
    shape = model.architecture
    has_segments = pair and shape.token_types > 1
    state = {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
    hidden = _embeddings(graph, state, shape, has_segments, table_bits)
    mask = "attention_mask"
    if graph.half:
        graph.weight("tokens.axis", np.array([1], dtype=np.int64))
        mask = graph.node("ReduceSum", [mask, "tokens.axis"], "text.lengths", keepdims=0)
    graph.node("Cast", [mask], "mask", to=TensorProto.INT32)
    layers = LAYERS.get(shape.family, Layers)(graph, state, shape, *plan)
    layers.prepare()
    for index in range(len(shape.layers)):
        hidden = layers.write(index, hidden)
    logits = _head(graph, state, shape, layers.finish(hidden))
    if graph.half:
        graph.node("Cast", [logits], "logits", to=TensorProto.FLOAT)
    return INPUTS if has_segments else INPUTS[:2]


def _embeddings(
    graph: Graph, state: Mapping[str, Any], shape: Architecture, has_segments: bool, bits: TableBits
) -> str:
    """Add the embeddings up to the first layer; return the name of the hidden states, (batch, tokens, width)."""
    module = "encoder.embeddings"
    graph.weight("zero", np.array([0], dtype=np.int64))
    tokens = write_embedding_table(graph, state[f"{module}.tokens.weight"], bits)
    length = graph.node("Shape", ["input_ids"], "length", start=1, end=2)
    summed = tokens
    first = state[f"{module}.types.weight"][0] if shape.token_types and not has_segments else None  # a text's segment
    if shape.has_position_table:  # other positions are in the attention
        positions = state[f"{module}.positions.weight"]
        graph.weight("positions", positions if first is None else positions + first)
        uncounted = FAMILIES[shape.family].uncounted_id(shape.pad_id)
        if uncounted is None:
            used = graph.node("Slice", ["positions", "zero", length, "zero"], "places")
            summed = graph.node("Add", [tokens, used], "embedded")
        else:
            used = _counted_places(graph, uncounted)
            summed = graph.node("Sum", [tokens, used], "embedded")  # not Add: see Layers._add_and_norm
    elif first is not None:
        summed = graph.node("Sum", [tokens, graph.weight("first.segment", first)], "embedded")
    if has_segments:
        types = graph.weight("types", state[f"{module}.types.weight"])
        segments = graph.node("Gather", [types, "token_type_ids"], "segments")
        summed = graph.node("Sum", [summed, segments], "embedded.segments")  # not Add: see Layers._add_and_norm
    hidden = graph.norm(summed, state, f"{module}.norm", "hidden", shape.norm_epsilon)
    if shape.table_width == shape.width:
        return hidden
    return _linear(graph, state, PROJECTION, hidden, "hidden.projected")


def _counted_places(graph: Graph, uncounted: int) -> str:
    """Add the position embeddings where tokens with the id `uncounted` have the first row, and no number."""
    graph.weight("uncounted", np.array([uncounted], dtype=np.int64))
    graph.weight("places.axis", np.array([1], dtype=np.int64))
    skipped = graph.node("Equal", ["input_ids", "uncounted"], "places.skipped")
    kept = graph.node("Not", [skipped], "places.kept")
    counted = graph.node("Cast", [kept], "places.counted", to=TensorProto.INT64)
    numbers = graph.node("CumSum", [counted, "places.axis"], "places.numbers")
    return graph.node("Gather", ["positions", graph.node("Mul", [numbers, counted], "places.rows")], "places")


def _head(graph: Graph, state: Mapping[str, Any], shape: Architecture, hidden: str) -> str:
    """Add pooling and the classification head; return the name of the logits."""
    one = graph.weight("one", np.array([1], dtype=np.int64))
    if shape.pooling == "mean":
        pooled = _mean(graph, hidden, one)
    else:
        pooled = graph.node("Squeeze", [hidden, one], "first.token")
    result = "logits.half" if graph.half else "logits"
    if shape.head == "unit":
        pooled = _unit(graph, pooled, one)
    if shape.head != "dense":
        return _linear(graph, state, "head.out", pooled, result)
    dense = _linear(graph, state, "head.dense", pooled, "head.biased")
    match shape.head_activation:
        case "tanh":
            activated = graph.node("Tanh", [dense], "head.tanh")
        case "relu":
            activated = graph.node("Relu", [dense], "head.relu")
        case "gelu":
            activated = graph.node("Gelu", [dense], "head.gelu", FUSED)
    if "head.norm.weight" in state:
        activated = graph.norm(activated, state, "head.norm", "head.normed", shape.norm_epsilon)
    return _linear(graph, state, "head.out", activated, result)


def _mean(graph: Graph, hidden: str, axis: str) -> str:
    """Add the mean over the tokens that are not padding, (batch, width).

    It is summed in fp64: the order in which ONNX Runtime adds depends on the length of the batch, and a text must
    have the same answer in every batch. A `half` graph, for GPUs, sums in fp32.
    """
    to = TensorProto.FLOAT if graph.half else TensorProto.DOUBLE
    real = graph.node("Cast", ["attention_mask"], "real", to=to)
    column = graph.node("Unsqueeze", [real, graph.weight("last.axis", np.array([2], dtype=np.int64))], "real.column")
    states = graph.node("Cast", [hidden], "states.wide", to=to)
    masked = graph.node("Mul", [states, column], "real.states")
    total = graph.node("ReduceSum", [masked, axis], "real.total", keepdims=0)
    count = graph.node("ReduceSum", [real, axis], "real.count", keepdims=1)
    mean = graph.node("Div", [total, count], "real.mean")
    return graph.node("Cast", [mean], "pooled", to=TensorProto.FLOAT16 if graph.half else TensorProto.FLOAT)


def _unit(graph: Graph, pooled: str, axis: str) -> str:
    """Add the pooled states divided by their L2 norms, (batch, width), which are summed in fp32."""
    if graph.half:
        pooled = graph.node("Cast", [pooled], "pooled.fp32", to=TensorProto.FLOAT)
    squares = graph.node("Mul", [pooled, pooled], "pooled.squares")
    norm = graph.node("Sqrt", [graph.node("ReduceSum", [squares, axis], "pooled.square", keepdims=1)], "pooled.norm")
    unit = graph.node("Div", [pooled, norm], "pooled.unit")
    return graph.node("Cast", [unit], "pooled.unit.half", to=TensorProto.FLOAT16) if graph.half else unit


def _linear(graph: Graph, state: Mapping[str, Any], module: str, hidden: str, result: str) -> str:
    """Add an fp32 linear layer, in a `half` graph fp16; return the name of its output, `result`."""
    weight = graph.weight(f"{module}.weight", state[f"{module}.weight"].T)
    if f"{module}.bias" not in state:
        return graph.node("MatMul", [hidden, weight], result)
    product = graph.node("MatMul", [hidden, weight], module)
    return graph.node("Add", [product, graph.weight(f"{module}.bias", state[f"{module}.bias"])], result)
