"""check_fused(), check_half(): count the operators that really run, and fail when an expected one is missing."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime as ort

from export.precision import Precision
from models.architecture import Architecture
from models.errors import CheckError

COUNTED = (
    "QAttention", "Attention", "MultiHeadAttention", "RotaryEmbedding", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul", "Gelu", "BiasGelu", "LayerNormalization",
    "SkipLayerNormalization",  # never: it is what an optimizer makes of our faster pair where it finds it
)  # fmt: skip


def running_operators(path: Path) -> Counter[str]:
    """Return how often each operator stands in the graph that ONNX Runtime executes for the file at `path`."""
    with tempfile.TemporaryDirectory() as scratch:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(scratch) / "optimized.onnx")
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(options.optimized_model_filepath, load_external_data=False)
    return Counter(node.op_type for node in optimized.graph.node)


def expected_operators(shape: Architecture, precision: Precision, static: bool) -> Counter[str]:
    """Return how often each fused and each int8 operator must run in a graph of `export.onnx`."""
    if shape.modern is not None:
        return _expected_modern(shape, precision, static)
    found: Counter[str] = Counter({"LayerNormalization": 1 + 2 * len(shape.layers)})
    found["Gelu"] += shape.head_activation == "gelu"
    product = "MatMulIntegerToFloat" if static else "DynamicQuantizeMatMul"
    for index, (layer, kinds) in enumerate(zip(shape.layers, precision.layers, strict=True)):
        last = index == len(shape.layers) - 1
        if layer.heads:
            fused = "QAttention" if kinds.attention == "int8" else "Attention"
            found["MultiHeadAttention" if last else fused] += 1
            if kinds.attention == "int8":
                found[product] += 3 if last else 1  # the last layer's query stands apart from its keys and values
        if layer.ffn:
            found["Gelu" if kinds.ffn == "int8" else "BiasGelu"] += 1
            found[product] += 2 * (kinds.ffn == "int8")
    return found


def _expected_modern(shape: Architecture, precision: Precision, static: bool) -> Counter[str]:
    """Return the counts of a modernbert: what is left of a layer that was cut off is a bias at most."""
    found = Counter({"Gelu": 1, "LayerNormalization": 3})  # of the head; the embeddings', the encoder's, the head's
    product = "MatMulIntegerToFloat" if static else "DynamicQuantizeMatMul"
    for index, (layer, kinds) in enumerate(zip(shape.layers, precision.layers, strict=True)):
        first_only = shape.first_only(index)
        if layer.heads:
            found["MultiHeadAttention"] += 1
            found["RotaryEmbedding"] += 1 if first_only else 2  # the first token's query stays as it is
            found["LayerNormalization"] += index > 0
            found[product] += (3 if first_only else 2) * (kinds.attention == "int8")
        if layer.ffn:
            found["Gelu"] += 1
            found["LayerNormalization"] += 1
            found[product] += 2 * (kinds.ffn == "int8")
    return found


def expected_half(shape: Architecture) -> Counter[str]:
    """Return how often each fused operator must run in a graph of `export.onnx.write_fp16`."""
    if shape.modern is not None:
        return _expected_modern(shape, Precision.all_fp32(shape), static=True)
    *others, last = shape.layers
    sublayers = sum((layer.heads > 0) + (layer.ffn > 0) for layer in shape.layers)
    return Counter({
        "Attention": sum(layer.heads > 0 for layer in others), "MultiHeadAttention": int(last.heads > 0),
        "SkipLayerNormalization": sublayers, "LayerNormalization": 1 + 2 * len(shape.layers) - sublayers,
        "BiasGelu": sum(layer.ffn > 0 for layer in shape.layers),
    })  # fmt: skip


def check_half(path: Path, shape: Architecture) -> None:
    """Check the operators of an fp16 graph; a head's GELU is not counted, a processor has no fp16 kernel for it.

    Raises:
        CheckError: a fused operator does not stand there as often as the architecture says.
    """
    _compare(path, expected_half(shape), [name for name in COUNTED if name != "Gelu"])


def check_fused(path: Path, shape: Architecture, precision: Precision, static: bool) -> None:
    """Check the operators that run.

    Raises:
        CheckError: a fused or an int8 operator does not stand there as often as architecture and precision say.
    """
    _compare(path, expected_operators(shape, precision, static), COUNTED)


def _compare(path: Path, expected: Counter[str], names: Sequence[str]) -> None:
    found = running_operators(path)
    wrong = {name: (found[name], expected[name]) for name in names if found[name] != expected[name]}
    if wrong:
        told = ", ".join(f"{name}: {have} run, {want} wanted" for name, (have, want) in wrong.items())
        raise CheckError(f"{path.name} is not the graph it should be ({told}): it would be slow or not int8")
