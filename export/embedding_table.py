"""write_embedding_table(): add the token embedding table to an ONNX graph in fp32, int8 or int4, with its lookup.

Most of the size of a pruned encoder is its embedding table, and int4 takes half the space of int8. The int4 values
are unpacked with standard operators: ONNX Runtime's GatherBlockQuantized supports this packing since 1.23, where it
took 110 µs for twenty rows; only in 1.32 is it as fast as the standard operators.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from export.graph_builder import Graph
from export.graph_precision import quantized_weight

TableBits = Literal[4, 8, 32]
BLOCK = 32  # columns that share a scale in int4
LOWEST, HIGHEST, MIDDLE = -8, 7, 8  # int4 values; value + MIDDLE is stored
Floats = NDArray[np.float32]


def write_embedding_table(graph: Graph, table: Floats, bits: TableBits) -> str:
    """Add an embedding table (tokens, width) and the lookup of `input_ids`; return the name of the embeddings."""
    match bits:
        case 32:
            return graph.node("Gather", [graph.weight("tokens", table), "input_ids"], "words")
        case 8:
            return _write_int8(graph, table)
        case 4:
            return _write_int4(graph, table)


def quantized_blocks(table: Floats) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Quantize the table to int4: values (tokens, blocks, BLOCK) from -8 to 7, and scales (tokens, blocks, 1).

    The last block is padded with zeros. The value of largest magnitude in a block, whatever its sign, becomes -8: the
    quantization step is smaller by a sixteenth than with a symmetric range (docs/log.md). So a scale can be negative.
    """
    tokens, width = table.shape
    blocks = np.pad(table, ((0, 0), (0, -width % BLOCK))).reshape(tokens, -1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2, keepdims=True), axis=2)
    scales = (largest / LOWEST).astype(np.float16)
    steps = blocks / np.where(scales == 0, np.float32(1), scales.astype(np.float32))
    return np.clip(np.rint(steps), LOWEST, HIGHEST).astype(np.int8), scales


def rounded_in_blocks(table: Floats) -> Floats:
    """Return the table (tokens, width) after int4 quantization and dequantization."""
    values, scales = quantized_blocks(table)
    rows = np.multiply(values, scales, dtype=np.float32).reshape(len(table), -1)
    return rows[:, : table.shape[1]]


def _write_int8(graph: Graph, table: Floats) -> str:
    """Add the table in int8 with one scale per row."""
    values, scale = quantized_weight(table.T, 8)
    graph.weight("tokens.int8", values.T)
    graph.weight("tokens.scale", scale[:, None])
    rows = graph.node("Cast", [graph.node("Gather", ["tokens.int8", "input_ids"], "rows.int8")], "rows", to=1)
    scales = graph.node("Gather", ["tokens.scale", "input_ids"], "rows.scale")
    return graph.node("Mul", [rows, scales], "words")


def _write_int4(graph: Graph, table: Floats) -> str:
    """Add the table in int4, two values per byte: first half of a row in the low four bits, second in the high."""
    values, scales = quantized_blocks(table)
    rows = (values + MIDDLE).astype(np.uint8).reshape(len(table), -1)
    half = rows.shape[1] // 2
    graph.weight("tokens.int4", rows[:, :half] | rows[:, half:] << 4)
    graph.weight("tokens.scale", scales)
    for name, number in (("low", 15), ("four", 4)):
        graph.weight(name, np.array([number], dtype=np.uint8))
    graph.weight("step", np.array(1.0, dtype=np.float32))
    graph.weight("middle", np.array(MIDDLE, dtype=np.uint8))
    graph.weight("blocks", np.array([0, 0, -1, BLOCK], dtype=np.int64))
    graph.weight("row", np.array([0, 0, -1], dtype=np.int64))
    packed = graph.node("Gather", ["tokens.int4", "input_ids"], "rows.int4")
    low = graph.node("BitwiseAnd", [packed, "low"], "rows.low")
    high = graph.node("BitShift", [packed, "four"], "rows.high", direction="RIGHT")
    steps = graph.node("Concat", [low, high], "rows.steps", axis=2)
    centred = graph.node("DequantizeLinear", [steps, "step", "middle"], "rows.centred")
    in_blocks = graph.node("Reshape", [centred, "blocks"], "rows.blocks")
    scale = graph.node("Cast", [graph.node("Gather", ["tokens.scale", "input_ids"], "rows.scale")], "rows.scale.fp32",
                       to=TensorProto.FLOAT)  # fmt: skip
    scaled = graph.node("Mul", [in_blocks, scale], "rows.scaled")
    padded = graph.node("Reshape", [scaled, "row"], "words")
    width = table.shape[1]
    if width % BLOCK == 0:
        return padded
    for name, number in (("words.first", 0), ("words.width", width), ("words.axis", 2)):
        graph.weight(name, np.array([number], dtype=np.int64))
    return graph.node("Slice", [padded, "words.first", "words.width", "words.axis"], "words.cut")
