"""`python -m bench.products BUNDLE DATA`: where each graph's time goes, and how near its products are to the peak.

The peak is not a data sheet's: it is the largest rate that ONNX Runtime's own product reaches on this processor, in
the same run, on matrices large enough that nothing but multiplying counts.
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
    from models.tokens import TokenBatch

SIZES = (512, 768, 1024)  # of the square matrices on which the peak is looked for
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
    texts: Annotated[int, typer.Option(min=1, help="drawn from the data, answered one at a time")] = 32,
) -> None:
    """Profile every variant of a bundle that processors run, one thread."""
    from models.data.texts import read_texts
    from service.bundle import Bundle

    opened, rows = Bundle.open(bundle), read_texts(data).rows
    chosen = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:texts]]
    tokenizer = opened.tokenizer()
    batches = [tokenizer.batch([row]) for row in chosen]
    told: dict[str, Any] = {"bundle": opened.id, "texts": len(batches)}
    told["mean_tokens"] = round(float(np.mean([b.ids.shape[1] for b in batches])), 1)
    told["peak_gmacs"] = {name: round(peak(name) / 1e9, 2) for name in (FLOAT, INT8)}
    for name, variant in opened.info.variants.items():
        if variant.device == "cpu":
            told[name] = profile(opened.onnx_path(name), batches, variant.weight_bits, told["peak_gmacs"])
    sys.stdout.write(json.dumps(told) + "\n")


def profile(path: Path, batches: "list[TokenBatch]", bits: int, peaks: dict[str, float]) -> dict[str, Any]:
    """Return, by operator, milliseconds a text, its share, and multiply-adds a second beside the peak of its kind."""
    spent: Counter[str] = Counter()
    work: defaultdict[str, int] = defaultdict(int)
    for event in events(path, batches, bits):
        name = event["args"]["op_name"]
        spent[name] += event["dur"]
        work[name] += multiply_adds(name, event["args"])
    total = sum(spent.values())
    found = {}
    for name, microseconds in spent.most_common():
        row = {"ms": microseconds / 1e3 / len(batches), "share": microseconds / total}
        if work[name]:
            row["gmacs"] = work[name] / microseconds / 1e3
            row["of_peak"] = row["gmacs"] / peaks[PRODUCTS[name]]
        found[name] = {key: round(value, 3) for key, value in row.items()}
    return found


def events(path: Path, batches: "list[TokenBatch]", bits: int) -> list[dict[str, Any]]:
    """Return the kernel events of ONNX Runtime's profiler over the batches, after a pass that warms it up."""
    from bench.operators import kernel_events

    kernels = kernel_events(path, [*batches, *batches], bits)
    return kernels[len(kernels) // 2 :]


def multiply_adds(operator: str, args: dict[str, Any]) -> int:
    """Return the multiply-adds of the product with constant weights in an operator; the scores of attention aside."""
    if operator not in PRODUCTS:
        return 0
    (entering, *_), (leaving, *_) = args["input_type_shape"], args["output_type_shape"]  # packed weights are not told
    parts = 3 if operator in ATTENTION else 1  # query, key and value
    return int(np.prod(next(iter(entering.values())))) * int(next(iter(leaving.values()))[-1]) * parts


def peak(operator: str) -> float:
    """Return the largest multiply-adds a second of a product of square matrices."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    from service.runtime import session_options

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
            begun = time.perf_counter()
            session.run(None, {"x": x})
            rates.append(size**3 / (time.perf_counter() - begun))
    return max(rates)


if __name__ == "__main__":
    typer.run(main)
