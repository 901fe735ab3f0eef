"""Check that ONNX Runtime executes the expected fused and int8 operators: check_fused() and, for fp16, check_half().

The operators are counted in the graph after ONNX Runtime's own optimization, so a missing fusion is an error.
"""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime as ort

from export.graph_precision import Precision
from models.architecture import Architecture
from models.errors import CheckError

COUNTED = (
    "QAttention", "Attention", "MultiHeadAttention", "RotaryEmbedding", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul", "Gelu", "BiasGelu", "FastGelu", "LayerNormalization",
    "SkipLayerNormalization",  # expected 0 times on a CPU: the optimizer would put it in place of our faster pair
)  # fmt: skip


def running_operators(path: Path) -> Counter[str]:
    """Return how often each operator occurs in the graph that ONNX Runtime executes for the file at `path`."""
    with tempfile.TemporaryDirectory() as scratch:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(scratch) / "optimized.onnx")
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(options.optimized_model_filepath, load_external_data=False)
    return Counter(node.op_type for node in optimized.graph.node)


def expected_operators(shape: Architecture, precision: Precision, static: bool) -> Counter[str]:
    """Return how often each fused and each int8 operator must occur in a graph of `export.writer`.

    Args:
        shape: the architecture.
        precision: of each sublayer.
        static: whether activations have fixed scales; otherwise they are quantized dynamically.
    """
    if shape.modern is not None:
        return _expected_modern(shape, precision, static)
    expected: Counter[str] = Counter({"LayerNormalization": 1 + 2 * len(shape.layers)})
    expected["Gelu"] += shape.head_activation == "gelu" and shape.head == "dense"
    product = "MatMulIntegerToFloat" if static else "DynamicQuantizeMatMul"
    for index, (layer, kinds) in enumerate(zip(shape.layers, precision.layers, strict=True)):
        last = shape.first_only(index)
        if layer.heads:
            # QAttention takes no bias of scores, and the fused Attention no product of DeBERTa's positions
            unfused = shape.deberta is not None or (shape.relative is not None and kinds.attention == "int8")
            fused = "QAttention" if kinds.attention == "int8" else "Attention"
            expected["MultiHeadAttention" if last or unfused else fused] += 1
            if kinds.attention == "int8":
                expected[product] += 3 if last else 1 + unfused  # last layer: query, keys and values, output
        if layer.ffn:
            gelu = "Gelu" if kinds.ffn == "int8" else "BiasGelu"  # the bias of an int8 product is in its operator
            expected[gelu] += shape.activation == "gelu"
            expected["FastGelu"] += shape.activation == "gelu_tanh"
            expected[product] += 2 * (kinds.ffn == "int8")
    return expected


def _expected_modern(shape: Architecture, precision: Precision, static: bool) -> Counter[str]:
    """Return the counts for ModernBERT; of a dropped sublayer at most a bias is left, which is not counted."""
    has_dense = int(shape.head == "dense")
    expected = Counter({"Gelu": has_dense, "LayerNormalization": 2 + has_dense})  # norms: embeddings, encoder, head
    product = "MatMulIntegerToFloat" if static else "DynamicQuantizeMatMul"
    for index, (layer, kinds) in enumerate(zip(shape.layers, precision.layers, strict=True)):
        first_only = shape.first_only(index)
        if layer.heads:
            expected["MultiHeadAttention"] += 1
            expected["RotaryEmbedding"] += 1 if first_only else 2  # position 0 has no rotation
            expected["LayerNormalization"] += index > 0
            expected[product] += (3 if first_only else 2) * (kinds.attention == "int8")
        if layer.ffn:
            expected["Gelu"] += 1
            expected["LayerNormalization"] += 1
            expected[product] += 2 * (kinds.ffn == "int8")
    return expected


def expected_half(shape: Architecture) -> Counter[str]:
    """Return how often each fused operator must occur in a graph of `export.writer.write_fp16`."""
    if shape.modern is not None:
        return _expected_modern(shape, Precision.all_fp32(shape), static=True)
    first_only = [layer for index, layer in enumerate(shape.layers) if shape.first_only(index)]
    others = shape.layers[: len(shape.layers) - len(first_only)]
    fused = "MultiHeadAttention" if shape.deberta else "Attention"
    sublayers = sum((layer.heads > 0) + (layer.ffn > 0) for layer in shape.layers)
    attentions = Counter({fused: sum(layer.heads > 0 for layer in others)})
    return attentions + Counter({
        "MultiHeadAttention": sum(layer.heads > 0 for layer in first_only),
        "SkipLayerNormalization": sublayers, "LayerNormalization": 1 + 2 * len(shape.layers) - sublayers,
        "BiasGelu": (shape.activation == "gelu") * sum(layer.ffn > 0 for layer in shape.layers),
    })  # fmt: skip


def check_half(path: Path, shape: Architecture) -> None:
    """Check the operators of an fp16 graph.

    The GELU of the head and the one with tanh are not counted: ONNX Runtime has no fp16 kernels for them on a CPU.

    Raises:
        CheckError: a fused operator does not occur as often as the architecture requires.
    """
    _compare(path, expected_half(shape), [name for name in COUNTED if name not in ("Gelu", "FastGelu")])


def check_fused(path: Path, shape: Architecture, precision: Precision, static: bool) -> None:
    """Check the operators of an fp32 or int8 graph.

    Raises:
        CheckError: a fused or an int8 operator does not occur as often as architecture and precision require.
    """
    _compare(path, expected_operators(shape, precision, static), COUNTED)


def _compare(path: Path, expected: Counter[str], names: Sequence[str]) -> None:
    running = running_operators(path)
    wrong = [name for name in names if running[name] != expected[name]]
    if wrong:
        counts = ", ".join(f"{name}: {running[name]} run, {expected[name]} expected" for name in wrong)
        raise CheckError(f"{path.name} does not run the expected operators ({counts}): it would be slow or not int8")
