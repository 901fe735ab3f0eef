"""export_with_torch(): the baseline graphs without optimum, made by torch's exporter and ONNX Runtime's own tools.

optimum-onnx 0.1.0 needs transformers below 4.58 and knows some families and heads only. Elsewhere torch traces the
model of transformers, or ours if transformers has no class for its head; ONNX Runtime's transformer optimizer fuses
its operators for fp32, and ONNX Runtime quantizes the traced graph as optimum's dynamic recipes do.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from models.checkpoint import load_checkpoint, read_architecture
from models.classifier import Classifier

OPSET = 18
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def export_with_torch(source: Path, fp32: Path, int8: Path, signed: bool) -> None:
    """Write the classifier in the folder `source` as two ONNX graphs.

    Inputs (rows, tokens), int64: input_ids, attention_mask and, where the model has segments, token_type_ids.
    Output (rows, labels), float32: logits.

    Args:
        source: A classifier folder whose layers are all alike.
        fp32: File of the graph in fp32.
        int8: File of the graph with dynamic int8 (one scale for each matrix and each batch of activations).
        signed: Whether weights are signed; unsigned ones are exact on processors without VNNI.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model
    from transformers import AutoModelForSequenceClassification

    shape = read_architecture(source)
    names = INPUTS if shape.token_types else INPUTS[:2]
    if shape.is_in_transformers():
        # eager: the exporter cannot trace how newer versions of transformers make the masks of other implementations
        model = AutoModelForSequenceClassification.from_pretrained(
            source, attn_implementation="eager", trust_remote_code=False
        )
        module: torch.nn.Module = _Theirs(model, names)
    else:
        module = _Ours(load_checkpoint(source))
    with tempfile.TemporaryDirectory(dir=fp32.parent) as scratch:
        traced = Path(scratch) / "traced.onnx"
        _trace(module.eval(), names, shape.vocabulary, traced)
        fusions = FusionOptions("bert")
        fusions.enable_embed_layer_norm = False  # it drops ERNIE's embedding of the task (ONNX Runtime 1.32)
        heads = shape.layers[0].heads
        optimized = optimize_model(str(traced), "bert", heads, shape.width, fusions, opt_level=0)
        optimized.save_model_to_file(str(fp32))
        weights = QuantType.QInt8 if signed else QuantType.QUInt8
        options = {"WeightSymmetric": True, "MatMulConstBOnly": False}  # as optimum: products of activations, too
        quantize_dynamic(traced, int8, weight_type=weights, extra_options=options)


class _Theirs(torch.nn.Module):
    """A model of transformers that takes its inputs by position, as the exporter gives them, and returns logits."""

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return logits (rows, labels)."""
        logits: torch.Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


class _Ours(torch.nn.Module):
    """Our classifier with tensors as inputs."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits (rows, labels)."""
        hidden, _ = self.model.encoder(ids, mask, torch.zeros_like(ids) if types is None else types)
        logits: torch.Tensor = self.model.head(hidden, mask)
        return logits


def _trace(module: torch.nn.Module, names: tuple[str, ...], vocabulary: int, target: Path) -> None:
    ids = torch.arange(2 * 12).reshape(2, 12) % min(20, vocabulary)
    values = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about every shape that it reads
        torch.onnx.export(
            module, tuple(values[name] for name in names), str(target), input_names=list(names),
            output_names=["logits"], opset_version=OPSET, dynamo=False,
            dynamic_axes={name: {0: "rows", 1: "tokens"} for name in names} | {"logits": {0: "rows"}},
        )  # fmt: skip
