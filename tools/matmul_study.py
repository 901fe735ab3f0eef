"""`python -m tools.matmul_study BUNDLE DATA`: time by operator, and the speed of matrix products against the peak.

The peak is not taken from a data sheet: it is the highest rate that ONNX Runtime's own matrix product reaches on this
CPU in the same run, on matrices so large that all other costs are negligible.
"""

import json
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

if TYPE_CHECKING:
    from models.tokenizer import TokenBatch

SIZES = (512, 768, 1024)  # of the square matrices on which the peak is measured
CALLS = 5
FLOAT, INT8 = "MatMul", "MatMulIntegerToFloat"
ATTENTION = ("Attention", "QAttention")
PRODUCTS = {
    "MatMul": FLOAT, "Gemm": FLOAT, "FusedGemm": FLOAT, "FusedMatMul": FLOAT, "Attention": FLOAT,
    "MatMulIntegerToFloat": INT8, "DynamicQuantizeMatMul": INT8, "QAttention": INT8,
}  # fmt: skip


def main(
    bundle: Path,
    data: str,
    texts: Annotated[int, typer.Option(min=1, help="texts to draw from the data, answered one at a time")] = 32,
) -> None:
    """Profile every CPU variant of a bundle on one thread."""
    from models.data.texts import read_texts
    from service.model.bundle import Bundle

    opened, rows = Bundle.open(bundle), read_texts(data).rows
    chosen = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:texts]]
    tokenizer = opened.tokenizer()
    batches = [tokenizer.batch([row]) for row in chosen]
    result: dict[str, Any] = {"bundle": opened.id, "texts": len(batches)}
    result["mean_tokens"] = round(float(np.mean([b.ids.shape[1] for b in batches])), 1)
    result["peak_gmacs"] = {name: round(peak(name) / 1e9, 2) for name in (FLOAT, INT8)}
    for name, variant in opened.info.variants.items():
        if variant.device == "cpu":
            result[name] = profile(opened.onnx_path(name), batches, variant.weight_bits, result["peak_gmacs"])
    sys.stdout.write(json.dumps(result) + "\n")


def profile(path: Path, batches: "list[TokenBatch]", bits: int, peaks: dict[str, float]) -> dict[str, Any]:
    """Return by operator: milliseconds per text, share of time, 1e9 multiply-adds per second, share of the peak."""
    times: Counter[str] = Counter()
    work: defaultdict[str, int] = defaultdict(int)
    for event in events(path, batches, bits):
        name = event["args"]["op_name"]
        times[name] += event["dur"]
        work[name] += multiply_adds(name, event["args"])
    total = sum(times.values())
    rows = {}
    for name, microseconds in times.most_common():
        row = {"ms": microseconds / 1e3 / len(batches), "share": microseconds / total}
        if work[name]:
            row["gmacs"] = work[name] / microseconds / 1e3
            row["of_peak"] = row["gmacs"] / peaks[PRODUCTS[name]]
        rows[name] = {key: round(value, 3) for key, value in row.items()}
    return rows


def events(path: Path, batches: "list[TokenBatch]", bits: int) -> list[dict[str, Any]]:
    """Return the kernel events of ONNX Runtime's profiler for the batches, after a warm-up pass."""
    from bench.measure.latency.operator_profile import kernel_events

    kernels = kernel_events(path, [*batches, *batches], bits)
    return kernels[len(kernels) // 2 :]


def multiply_adds(operator: str, args: dict[str, Any]) -> int:
    """Return the multiply-adds of an operator's product with constant weights; without those of attention scores."""
    if operator not in PRODUCTS:
        return 0
    # first input and output only: the profiler does not report packed weights
    (entering, *_), (leaving, *_) = args["input_type_shape"], args["output_type_shape"]
    parts = 3 if operator in ATTENTION else 1  # query, key and value
    return int(np.prod(next(iter(entering.values())))) * int(next(iter(leaving.values()))[-1]) * parts


def peak(operator: str) -> float:
    """Return the highest rate of a product of square matrices, in multiply-adds per second."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    from service.model.session import session_options

    rates: list[float] = []
    draw = np.random.default_rng(0)
    for size in SIZES:
        shape = (size, size)
        if operator == FLOAT:
            x: Any = draw.normal(size=shape).astype(np.float32)
            weights: list[Any] = [x]
        else:
            x = draw.integers(0, 255, shape).astype(np.uint8)
            values, scale = draw.integers(-63, 63, shape).astype(np.int8), np.ones(size, np.float32)
            weights = [values, scale[0], scale]
        names = [f"w{i}" for i in range(len(weights))]
        node = helper.make_node(operator, ["x", *names], ["y"], domain="" if operator == FLOAT else "com.microsoft")
        kind = TensorProto.FLOAT if operator == FLOAT else TensorProto.UINT8
        graph = helper.make_graph(
            [node], "peak", [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(np.asarray(w), name) for w, name in zip(weights, names, strict=True)],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        options = session_options()
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        session.run(None, {"x": x})
        for _ in range(CALLS):
            start = time.perf_counter()
            session.run(None, {"x": x})
            rates.append(size**3 / (time.perf_counter() - start))
    return max(rates)


if __name__ == "__main__":
    typer.run(main)
