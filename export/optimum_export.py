"""stock_export(): optimum's ONNX export with default settings, in fp32 and dynamic int8: the baseline of reports."""

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from models import task as task_file
from models import tokenizer as tokenizer_file
from models.checkpoint import load_checkpoint, read_architecture
from models.classifier import TensorBatch
from models.errors import InputError
from models.processor import has_vnni
from models.store.folder import ModelFolder
from models.store.stage import Stage, StageResult, run_stage
from models.task import Task
from models.tokenizer import Tokenizer

VERSION = 1
OPSET = 17  # of a model that torch's exporter writes
FP32, INT8 = "model.onnx", "model_quantized.onnx"


def check_stock(source: ModelFolder) -> None:
    """Raise an error if optimum cannot export the model; called before any long work.

    Raises:
        InputError: the model was pruned to a shape that transformers cannot load.
    """
    if not read_architecture(source.path).is_uniform():
        shape = read_architecture(source.path)
        raise InputError(
            f"{source.path} is pruned already ({shape.summary()}), and optimum exports only models that transformers "
            "can load: give the classifier that it was pruned from"
        )


def stock_export(source: ModelFolder, store: Path) -> StageResult:
    """Export `source` with optimum, in fp32 and in dynamic int8 for this CPU, and return the stage's folder.

    Raises:
        InputError: the model was pruned to a shape that transformers cannot load.
    """
    check_stock(source)
    recipe = "avx512_vnni" if has_vnni() else "avx2"
    settings = {"optimum-onnx": version("optimum-onnx"), "recipe": recipe}
    return run_stage(Stage("stock", VERSION, settings), [source], store, lambda t: _make(source.path, recipe, t))


def _make(source: Path, recipe: str, target: Path) -> None:
    from optimum.exporters.onnx import onnx_export_from_model
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig
    from transformers import AutoModelForSequenceClassification

    settings = getattr(AutoQuantizationConfig, recipe)(is_static=False, per_channel=False)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about tracing and the legacy exporter, which optimum uses
        if read_architecture(source).is_in_transformers():
            model = AutoModelForSequenceClassification.from_pretrained(source)
            onnx_export_from_model(model, target, task="text-classification")
        else:
            _export_own(source, target / FP32)
        ORTQuantizer.from_pretrained(target, file_name=FP32).quantize(settings, save_dir=target)
    shutil.copyfile(source / tokenizer_file.FILE, target / tokenizer_file.FILE)


def _export_own(source: Path, target: Path) -> None:
    """Write a model whose head transformers does not have with torch's exporter, which optimum uses, too."""
    import torch

    task, model = Task.read(source / task_file.FILE), load_checkpoint(source)
    example = TensorBatch(Tokenizer.open(source, task.max_tokens).batch([("one",), ("two texts",)]))
    has_types = model.architecture.token_types > 0
    names = ["input_ids", "attention_mask", "token_type_ids"][: 3 if has_types else 2]

    class Plain(torch.nn.Module):
        """The classifier with tensors as inputs."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None = None) -> torch.Tensor:
            """Return logits (batch, labels)."""
            segments = torch.zeros_like(ids) if types is None else types
            hidden, _ = self.model.encoder(ids, mask, segments)
            logits: torch.Tensor = self.model.head(hidden, mask)
            return logits

    axes = {name: {0: "batch", 1: "tokens"} for name in names} | {"logits": {0: "batch"}}
    inputs = (example.ids, example.mask, example.types)[: len(names)]
    torch.onnx.export(
        Plain().eval(), inputs, str(target), input_names=names, output_names=["logits"], dynamic_axes=axes,
        opset_version=OPSET, dynamo=False,
    )  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress log messages of other libraries up to level WARNING; errors are still logged."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
