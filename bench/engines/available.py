"""engine_specs(): the engines that can be opened, with their folders, and the reasons why others cannot."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measure.engine_spec import DESCRIPTIONS, EngineSpec
from export.baseline import other_engines, stock_export
from models.checkpoint import read_architecture
from models.data.texts import Texts
from models.errors import InputError, MissingExtraError
from models.store.folder import ModelFolder
from service.model.bundle import Bundle

GRAPHS = {"ort_fp32": stock_export.FP32, "stock_int8": stock_export.INT8}  # the reference's graphs on ONNX Runtime
LOADED_BY_TRANSFORMERS = ("pytorch", "torch_compile", "ctranslate2")
FILES = {**GRAPHS, "openvino": other_engines.OPENVINO, "ctranslate2": other_engines.HEAD}


@dataclass(frozen=True, slots=True)
class Inputs:
    """The models to compare and the texts to compare them on."""

    bundle: Bundle
    reference: ModelFolder  # the fine-tuned classifier that the bundle came from
    data: Texts
    train: Texts | None  # training texts of tfidf, and calibration texts of openvino


@dataclass(frozen=True, slots=True)
class Specs:
    """The engines that can be opened, and the reasons why the others cannot, both by name."""

    engines: dict[str, EngineSpec]
    problems: dict[str, tuple[str, str]]  # status and message


def engine_specs(inputs: Inputs, against: Sequence[str], store: Path) -> Specs:
    """Return our engine and those named in `against`; converts the reference in the store where an engine needs it.

    Training texts are sent only to the process of the engine that is trained on them: in any other process they
    would count as its memory and its start-up time.

    Args:
        inputs: The models and the texts.
        against: Names of other engines.
        store: Folder for the converted forms of the reference.

    Raises:
        InputError: An engine is unknown.
    """
    for name in against:
        if name not in DESCRIPTIONS or name == "ours":
            others = ", ".join(other for other in DESCRIPTIONS if other != "ours")
            raise InputError(f"unknown engine {name!r}: choose from {others}")
    task = inputs.bundle.task
    exporter = stock_export.exporter(inputs.reference)
    specs = Specs({"ours": EngineSpec("ours", inputs.bundle.folder.path, task)}, {})
    for name in against:
        try:
            train = inputs.train if name == "tfidf" else None
            folder = _folder(name, inputs, store)
            specs.engines[name] = EngineSpec(name, folder, task, FILES.get(name, ""), train=train, exporter=exporter)
        except InputError as error:  # not installed, or the model's family or shape is not supported
            specs.problems[name] = ("absent", str(error))
        except Exception as error:  # third-party converters raise anything: reported in the engine's row
            specs.problems[name] = ("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return specs


def _folder(name: str, inputs: Inputs, store: Path) -> Path:
    reference = inputs.reference
    if name == "cascade":
        if inputs.bundle.gate is None:
            raise InputError("the bundle has no gate: run `prunella cascade`")
        return inputs.bundle.folder.path
    if name in LOADED_BY_TRANSFORMERS and not read_architecture(reference.path).is_in_transformers():
        raise InputError("transformers has no class for this head: it reads a mean, or has one layer only")
    if name in GRAPHS:
        return stock_export.stock_export(reference, store).folder.path
    if name == "ctranslate2":
        return other_engines.ctranslate2_int8(reference, store).folder.path
    if name not in ("tfidf", "openvino"):
        return reference.path
    if inputs.train is None:
        raise MissingExtraError("needs the training texts: give --train FILE")
    if name == "tfidf":
        return reference.path
    exported = stock_export.stock_export(reference, store).folder
    texts = other_engines.CalibrationTexts(inputs.train, inputs.data, inputs.bundle.task.max_tokens)
    return other_engines.openvino_int8(reference, exported, texts, store).folder.path
