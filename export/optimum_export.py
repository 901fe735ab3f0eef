"""stock_export(): optimum's ONNX export with default settings, in fp32 and dynamic int8: the baseline of reports."""

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from models import tokenizer as tokenizer_file
from models.architecture import Architecture
from models.checkpoint import read_architecture
from models.errors import InputError
from models.processor import has_vnni
from models.store.folder import ModelFolder
from models.store.stage import Stage, StageResult, run_stage

VERSION = 1
FP32, INT8 = "model.onnx", "model_quantized.onnx"


def check_stock(source: ModelFolder) -> None:
    """Raise an error if optimum cannot export the model; called before any long work.

    Raises:
        InputError: the model was pruned to a shape that transformers cannot load.
    """
    shape: Architecture = read_architecture(source.path)
    if not shape.is_uniform():
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

    model = AutoModelForSequenceClassification.from_pretrained(source)
    settings = getattr(AutoQuantizationConfig, recipe)(is_static=False, per_channel=False)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about tracing and the legacy exporter, which optimum uses
        onnx_export_from_model(model, target, task="text-classification")
        ORTQuantizer.from_pretrained(target, file_name=FP32).quantize(settings, save_dir=target)
    shutil.copyfile(source / tokenizer_file.FILE, target / tokenizer_file.FILE)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress log messages of other libraries up to level WARNING; errors are still logged."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
