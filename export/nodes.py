"""Graph: the nodes and weights of an ONNX file, in the order in which they were asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
FUSED = "com.microsoft"  # ONNX Runtime's own operators
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Graph:
    """An ONNX graph under construction; names of tensors are names of nodes or weights.

    A `half` graph is for GPUs: its floats are fp16, and it takes the fused operators that are fast there.
    """

    def __init__(self, half: bool = False) -> None:
        self.half = half
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def weight(self, name: str, array: NDArray[Any] | np.generic) -> str:
        """Add a constant."""
        kept = np.asarray(array, order="C")
        kept = kept.astype(np.float16) if self.half and kept.dtype == np.float32 else kept
        self._weights.append(numpy_helper.from_array(kept, name))
        return name

    def node(self, operator: str, inputs: Sequence[str], name: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output, which has its name; "" among the inputs is one that is not given."""
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def norm(self, source: str, state: Mapping[str, Any], module: str, name: str, epsilon: float) -> str:
        """Add the layer norm whose weight, and bias if there is one, `state` has under `module`."""
        ends = [f"{module}.{end}" for end in ("weight", "bias") if f"{module}.{end}" in state]
        weights = [self.weight(end, state[end]) for end in ends]
        return self.node("LayerNormalization", [source, *weights], name, axis=-1, epsilon=epsilon)

    def split(self, whole: str, names: Sequence[str]) -> list[str]:
        """Cut the last axis of a (batch, rows, columns) into equal parts."""
        self._nodes.append(
            helper.make_node("Split", [whole], names, name=f"{whole}.split", axis=2, num_outputs=len(names))
        )
        return list(names)

    def dynamic_quantize(self, source: str, name: str) -> tuple[str, str, str]:
        """Add the u8 form of a float tensor, with the scale and zero point that it has in this very batch."""
        names = (name, f"{name}.scale", f"{name}.zero")
        self._nodes.append(helper.make_node("DynamicQuantizeLinear", [source], names, name=name))
        return names

    def save(self, path: Path, inputs: Sequence[str], labels: int) -> None:
        """Write the file: int64 inputs (batch, tokens), the float output `logits` (batch, labels)."""
        proto = helper.make_graph(
            self._nodes,
            "prunella",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in inputs],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", labels])],
            self._weights,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, 1)]
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(helper.make_model(proto, opset_imports=opsets, ir_version=9, producer_name="prunella"), str(path))
