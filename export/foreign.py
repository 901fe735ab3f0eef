"""refuse_onnx(): an ONNX file where a classifier folder is wanted → the sentence that says what is wrong with it."""

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from export.nodes import OPSET
from models.errors import InputError

INT8 = frozenset({
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearMatMul", "MatMulInteger",
    "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QAttention", "QGemm", "MatMulNBits",
})  # fmt: skip
WANTED = (
    "wanted the classifier folder that it was exported from (config.json, tokenizer.json, model.safetensors): "
    "graphs are written from weights here, never changed afterwards"
)


def refuse_onnx(path: Path) -> None:
    """Refuse the ONNX file at `path`, naming the first thing that keeps it from being quantized.

    Raises:
        InputError: always.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise InputError(f"{path} is no ONNX file: {error}; {WANTED}") from None
    operators = {("" if node.domain == "ai.onnx" else node.domain, node.op_type) for node in model.graph.node}
    if found := sorted({name for _, name in operators} & INT8):
        raise InputError(f"{path} is quantized already (it has {', '.join(found)}); {WANTED}")
    known = {(schema.domain, schema.name) for schema in get_all_operator_schema()}
    if unknown := sorted(f"{domain or 'ai.onnx'}.{name}" for domain, name in operators - known):
        raise InputError(f"{path} has operators that ONNX Runtime does not know ({', '.join(unknown)}); {WANTED}")
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < OPSET:
        raise InputError(f"{path} has opset {opset}, older than {OPSET}; {WANTED}")
    raise InputError(
        f"{path} is an ONNX file from elsewhere ({model.producer_name or 'no producer named'}); {WANTED}"
    )
