"""refuse_onnx(): explain why an ONNX file cannot be quantized where a classifier folder is expected."""

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from export.graph_builder import OPSET
from models.errors import InputError

INT8 = frozenset({
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearMatMul", "MatMulInteger",
    "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QAttention", "QGemm", "MatMulNBits",
})  # fmt: skip
ADVICE = (
    "give the classifier folder that it was exported from (config.json, tokenizer.json, model.safetensors): "
    "Prunella writes graphs from weights and does not change existing graphs"
)


def refuse_onnx(path: Path) -> None:
    """Raise an error that names the first reason why the ONNX file at `path` cannot be quantized.

    Raises:
        InputError: always.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise InputError(f"{path} is not an ONNX file: {error}; {ADVICE}") from None
    operators = {("" if node.domain == "ai.onnx" else node.domain, node.op_type) for node in model.graph.node}
    if quantized := sorted({name for _, name in operators} & INT8):
        raise InputError(f"{path} is quantized already (it has {', '.join(quantized)}); {ADVICE}")
    known = {(schema.domain, schema.name) for schema in get_all_operator_schema()}
    if unknown := sorted(f"{domain or 'ai.onnx'}.{name}" for domain, name in operators - known):
        raise InputError(f"{path} has operators that ONNX Runtime does not know ({', '.join(unknown)}); {ADVICE}")
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < OPSET:
        raise InputError(f"{path} has opset {opset}, older than {OPSET}; {ADVICE}")
    raise InputError(f"{path} is an ONNX file (producer: {model.producer_name or 'unknown'}); {ADVICE}")
