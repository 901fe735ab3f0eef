"""export_with_optimum(): optimum's ONNX export with default settings, in fp32 and dynamic int8."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from models.architecture import Architecture


def optimum_problem(shape: Architecture) -> str | None:
    """Return why optimum cannot export a classifier of this shape here; None if it can."""
    if not shape.is_in_transformers():
        return "transformers has no class for this head"
    family = shape.family
    try:
        wanted = next(r for r in map(Requirement, requires("optimum-onnx") or ()) if r.name == "transformers")
        if not wanted.specifier.contains(version("transformers")):
            return f"optimum-onnx {version('optimum-onnx')} wants {wanted}, found {version('transformers')}"
        import optimum.exporters.onnx.model_configs  # noqa: F401  it registers the families
        from optimum.exporters.tasks import TasksManager
    except PackageNotFoundError as error:
        return f"{error.name} is not installed (pip install 'prunella[optimum]')"
    try:
        known = "text-classification" in TasksManager.get_supported_tasks_for_model_type(
            family, "onnx", library_name="transformers"
        )
    except KeyError:  # a model type that it has never heard of
        known = False
    return None if known else f"optimum-onnx {version('optimum-onnx')} cannot export the family {family!r}"


def export_with_optimum(source: Path, target: Path, recipe: str) -> None:
    """Write `model.onnx` and `model_quantized.onnx` of the classifier of transformers in `source` to `target`.

    Args:
        source: A folder that `AutoModelForSequenceClassification` opens.
        target: A folder.
        recipe: Name of optimum's dynamic recipe, for a kind of processor ("avx512_vnni", "avx2").
    """
    from optimum.exporters.onnx import onnx_export_from_model
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(source, trust_remote_code=False)
    settings = getattr(AutoQuantizationConfig, recipe)(is_static=False, per_channel=False)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about tracing and the legacy exporter, which optimum uses
        onnx_export_from_model(model, target, task="text-classification")
        ORTQuantizer.from_pretrained(target, file_name="model.onnx").quantize(settings, save_dir=target)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress log messages of other libraries up to level WARNING; errors are still logged."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
