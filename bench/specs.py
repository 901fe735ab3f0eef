"""engine_specs(): which engines can be opened, from which folders, and why the rest cannot."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.engines import DESCRIPTIONS, EngineSpec
from export import peers, stock
from models.data.texts import Texts
from models.errors import InputError, MissingExtraError
from models.folder import ModelFolder
from service.bundle import Bundle

GRAPHS = {"ort_fp32": stock.FP32, "stock_int8": stock.INT8}  # what ONNX Runtime runs, ours aside
FILES = {**GRAPHS, "openvino": peers.OPENVINO, "ctranslate2": peers.HEAD}


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is compared, and on what."""

    bundle: Bundle
    reference: ModelFolder  # the fine-tuned classifier that the bundle came from
    data: Texts
    train: Texts | None  # what tfidf learns, and openvino is calibrated, with


@dataclass(frozen=True, slots=True)
class Specs:
    """What can be opened, by name, and the rest: status and sentence by name."""

    found: dict[str, EngineSpec]
    problems: dict[str, tuple[str, str]]


def engine_specs(inputs: Inputs, against: Sequence[str], store: Path) -> Specs:
    """Return our engine and those named in `against`; one is prepared in the store when it needs that.

    Training texts go into the process of the engine that learns from them, and into no other: they would count as
    its memory and its start.

    Args:
        inputs: the models and the texts.
        against: names of other engines.
        store: where prepared forms of the reference are kept.

    Raises:
        InputError: an engine is unknown.
    """
    for name in against:
        if name not in DESCRIPTIONS or name == "ours":
            others = ", ".join(other for other in DESCRIPTIONS if other != "ours")
            raise InputError(f"{name!r} is no engine that is known: there are {others}")
    task = inputs.bundle.task
    specs = Specs({"ours": EngineSpec("ours", inputs.bundle.folder.path, task)}, {})
    for name in against:
        try:
            learns = inputs.train if name == "tfidf" else None
            specs.found[name] = EngineSpec(
                name, _folder(name, inputs, store), task, FILES.get(name, ""), train=learns
            )
        except InputError as error:  # not installed, or not for a model of this family or shape
            specs.problems[name] = ("absent", str(error))
        except Exception as error:  # whatever a foreign converter raises becomes its row
            specs.problems[name] = ("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return specs


def _folder(name: str, inputs: Inputs, store: Path) -> Path:
    reference = inputs.reference
    if name in GRAPHS:
        return stock.stock_export(reference, store).folder.path
    if name == "ctranslate2":
        return peers.ctranslate2_int8(reference, store).folder.path
    if name not in ("tfidf", "openvino"):
        return reference.path
    if inputs.train is None:
        raise MissingExtraError("needs the training texts: give --train FILE")
    if name == "tfidf":
        return reference.path
    exported = stock.stock_export(reference, store).folder
    texts = peers.CalibrationTexts(inputs.train, inputs.data, inputs.bundle.task.max_tokens)
    return peers.openvino_int8(reference, exported, texts, store).folder.path
