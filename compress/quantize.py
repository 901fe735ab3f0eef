"""quantize_dynamic_int8(): fp32 graph → int8 weights, activations quantized as they come."""

from pathlib import Path
from typing import Literal

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from export.onnx import HEAD_NODES
from export.stock import quiet
from models.processor import has_vnni


def weight_bits() -> Literal[7, 8]:
    """Return 8 where the processor has VNNI, else 7: AVX2's int8 product saturates on full-range weights."""
    return 8 if has_vnni() else 7


def quantize_dynamic_int8(source: Path, target: Path) -> Path:
    """Write the int8 form of the graph at `source` to `target`: Attention and MatMul, one weight scale a column."""
    with quiet():  # the quantizer advises, at every call, a step that is done already
        quantize_dynamic(
            str(source),
            str(target),
            op_types_to_quantize=["MatMul", "Attention"],
            per_channel=True,
            reduce_range=weight_bits() == 7,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(HEAD_NODES),
            # shapes are not inferred through fused operators
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    return target
