"""check_fused(): count the operators that really run, and fail when an expected one is missing."""

import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime as ort

from models.architecture import Architecture
from models.errors import CheckError


def running_operators(path: Path) -> Counter[str]:
    """Return how often each operator stands in the graph that ONNX Runtime executes for the file at `path`."""
    with tempfile.TemporaryDirectory() as scratch:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(scratch) / "optimized.onnx")
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(options.optimized_model_filepath, load_external_data=False)
    return Counter(node.op_type for node in optimized.graph.node)


def check_fused(path: Path, shape: Architecture, int8: bool) -> Counter[str]:
    """Return the operators that run.

    Raises:
        CheckError: a fused or an int8 operator does not stand there as often as the architecture says.
    """
    heads = sum(layer.heads > 0 for layer in shape.layers)
    ffns = sum(layer.ffn > 0 for layer in shape.layers)
    expected = {
        "QAttention" if int8 else "Attention": heads,
        "SkipLayerNormalization": heads + ffns,
        "BiasGelu": ffns,
    }
    if int8:
        expected |= {"DynamicQuantizeMatMul": heads + 2 * ffns}
    found = running_operators(path)
    wrong = {name: (found[name], count) for name, count in expected.items() if found[name] != count}
    if wrong:
        told = ", ".join(f"{name}: {have} run, {want} wanted" for name, (have, want) in wrong.items())
        raise CheckError(f"{path.name} is not the graph it should be ({told}): it would be slow or not int8")
    return found
