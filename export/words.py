"""write_words(): the token table of an ONNX graph, in fp32, int8 or int4, and the nodes that read its rows.

A pruned encoder is mostly its token table. Four bits halve it once more; they are unpacked with standard operators,
because ONNX Runtime's own GatherBlockQuantized came with 1.23, took 110 µs for twenty rows there, and with 1.32 is
as fast as these are.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from export.nodes import Graph
from export.precision import quantized_weight

TableBits = Literal[4, 8, 32]
BLOCK = 32  # columns that share a scale in four bits
LOWEST, HIGHEST, MIDDLE = -8, 7, 8  # four bits hold value + MIDDLE
Floats = NDArray[np.float32]


def write_words(graph: Graph, table: Floats, bits: TableBits) -> str:
    """Add a token table (tokens, width) and what looks up `input_ids` in it; return the rows' name."""
    match bits:
        case 32:
            return graph.node("Gather", [graph.weight("tokens", table), "input_ids"], "words")
        case 8:
            return _write_int8(graph, table)
        case 4:
            return _write_int4(graph, table)


def quantized_blocks(table: Floats) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Return the table in four bits: values (tokens, blocks, BLOCK) from -8 to 7, and scales (tokens, blocks, 1).

    The last block is padded with zeros. A block's largest value, whatever its sign, becomes -8: steps are smaller by
    a sixteenth than with a range that is the same on both sides (docs/log.md). A scale may so be negative.
    """
    tokens, width = table.shape
    blocks = np.pad(table, ((0, 0), (0, -width % BLOCK))).reshape(tokens, -1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2, keepdims=True), axis=2)
    scales = (largest / LOWEST).astype(np.float16)
    steps = blocks / np.where(scales == 0, np.float32(1), scales.astype(np.float32))
    return np.clip(np.rint(steps), LOWEST, HIGHEST).astype(np.int8), scales


def rounded_in_blocks(table: Floats) -> Floats:
    """Return the table (tokens, width) as it is read where it has four bits."""
    values, scales = quantized_blocks(table)
    rows = np.multiply(values, scales, dtype=np.float32).reshape(len(table), -1)
    return rows[:, : table.shape[1]]


def _write_int8(graph: Graph, table: Floats) -> str:
    """Add the table with one scale a row."""
    values, scale = quantized_weight(table.T, 8)
    graph.weight("tokens.int8", values.T)
    graph.weight("tokens.scale", scale[:, None])
    rows = graph.node("Cast", [graph.node("Gather", ["tokens.int8", "input_ids"], "rows.int8")], "rows", to=1)
    scales = graph.node("Gather", ["tokens.scale", "input_ids"], "rows.scale")
    return graph.node("Mul", [rows, scales], "words")


def _write_int4(graph: Graph, table: Floats) -> str:
    """Add the table with two values a byte: the first half of a row in the low four bits, the second in the high."""
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
    whole = graph.node("Reshape", [scaled, "row"], "words")
    width = table.shape[1]
    if width % BLOCK == 0:
        return whole
    for name, number in (("words.first", 0), ("words.width", width), ("words.axis", 2)):
        graph.weight(name, np.array([number], dtype=np.int64))
    return graph.node("Slice", [whole, "words.first", "words.width", "words.axis"], "words.cut")
