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
class Specs:
    """What can be opened, by name, and the rest: status and sentence by name."""

    found: dict[str, EngineSpec]
    problems: dict[str, tuple[str, str]]


def engine_specs(
    bundle: Bundle, reference: ModelFolder, train: Texts | None, against: Sequence[str], store: Path
) -> Specs:
    """Return our engine and those named in `against`; one is prepared in the store when it needs that.

    Args:
        bundle: ours.
        reference: the fine-tuned classifier that the bundle came from.
        train: for the engines that learn or calibrate.
        against: names of other engines.
        store: where prepared forms of the reference are kept.

    Raises:
        InputError: an engine is unknown.
    """
    unknown = set(against) - set(DESCRIPTIONS)
    if unknown:
        raise InputError(f"{sorted(unknown)[0]!r} is no engine that is known: there are {', '.join(DESCRIPTIONS)}")
    specs = Specs({"ours": EngineSpec("ours", bundle.folder.path, bundle.task)}, {})
    for name in against:
        try:
            folder = _folder(name, reference, train, bundle.task.max_tokens, store)
            specs.found[name] = EngineSpec(name, folder, bundle.task, FILES.get(name, ""), train=train)
        except InputError as error:  # not installed, or not for a model of this family or shape
            specs.problems[name] = ("absent", str(error))
        except Exception as error:  # whatever a foreign converter raises becomes its row
            specs.problems[name] = ("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return specs


def _folder(name: str, reference: ModelFolder, train: Texts | None, max_tokens: int, store: Path) -> Path:
    if name in GRAPHS:
        return stock.stock_export(reference, store).folder.path
    if name == "ctranslate2":
        return peers.ctranslate2_int8(reference, store).folder.path
    if name not in ("tfidf", "openvino"):
        return reference.path
    if train is None:
        raise MissingExtraError("needs the training texts: give --train FILE")
    if name == "tfidf":
        return reference.path
    exported = stock.stock_export(reference, store).folder
    return peers.openvino_int8(reference, exported, train, max_tokens, store).folder.path
