"""Graph: builds an ONNX file; nodes and weights are written in the order in which they are added."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
FUSED = "com.microsoft"  # domain of ONNX Runtime's own (fused) operators
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Graph:
    """An ONNX graph under construction; a tensor has the name of the node or the weight that it comes from.

    A `half` graph is for GPUs: its floats are fp16, and it uses the fused operators that are fast on a GPU.
    """

    def __init__(self, half: bool = False) -> None:
        self.half = half
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def weight(self, name: str, array: NDArray[Any] | np.generic) -> str:
        """Add a constant, in a `half` graph as fp16 if it is float32; return its name."""
        values = np.asarray(array, order="C")
        values = values.astype(np.float16) if self.half and values.dtype == np.float32 else values
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def node(self, operator: str, inputs: Sequence[str], name: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output of the same name; return the name. "" in `inputs` omits an optional input."""
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def norm(self, source: str, state: Mapping[str, Any], module: str, name: str, epsilon: float) -> str:
        """Add a layer norm with the weight, and the bias if there is one, of `module` in `state`."""
        keys = [f"{module}.{key}" for key in ("weight", "bias") if f"{module}.{key}" in state]
        weights = [self.weight(key, state[key]) for key in keys]
        return self.node("LayerNormalization", [source, *weights], name, axis=-1, epsilon=epsilon)

    def split(self, whole: str, names: Sequence[str]) -> list[str]:
        """Split the last axis of a tensor (batch, rows, columns) into equal parts, and return their names."""
        self._nodes.append(
            helper.make_node("Split", [whole], names, name=f"{whole}.split", axis=2, num_outputs=len(names))
        )
        return list(names)

    def dynamic_quantize(self, source: str, name: str) -> tuple[str, str, str]:
        """Quantize a float tensor to u8 dynamically; return the names of values, scale and zero point.

        Scale and zero point are computed from each batch.
        """
        names = (name, f"{name}.scale", f"{name}.zero")
        self._nodes.append(helper.make_node("DynamicQuantizeLinear", [source], names, name=name))
        return names

    def save(self, path: Path, inputs: Sequence[str], labels: int) -> None:
        """Write the ONNX file with int64 inputs (batch, tokens) and the float output `logits` (batch, labels)."""
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
