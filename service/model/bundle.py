"""Bundle: the model folder that is served. Opening one checks that it is complete and unchanged.

tokenizer.json  task.json  architecture.json     definition of the model
bundle.json                                      the ONNX files (variants) and the device of each
onnx/cpu-int8.onnx  cpu-int8.bin …               graph, weights: input_ids, attention_mask[, token_type_ids] → logits
golden.json                                      rows with each variant's logits, for the self-check at start-up
report.json                                      measured loss and speed-up of the compression (may be replaced)
gate.json  gate.npy                              optional: answers the easy texts (service/cascade/gate.py)
manifest.json                                    identity, lineage, hashes
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from models import architecture, task
from models.architecture import Architecture
from models.errors import FolderError
from models.schema import Record
from models.store.folder import MANIFEST, REPORT, ModelFolder
from models.task import Task
from models.tokenizer import FILE as TOKENIZER
from models.tokenizer import Tokenizer
from service.cascade import gate as gate_file
from service.cascade.gate import Gate, GateInfo

log = logging.getLogger("prunella")
FILE = "bundle.json"
GOLDEN = "golden.json"
MAKE_BUNDLE = "`prunella compress`, `quantize` or `export` makes a bundle of a classifier"
WEIGHTS = ".bin"  # suffix of the file with the weights of a graph, where they are not in the ONNX file


class Variant(Record):
    """One ONNX file of the bundle."""

    file: str = Field(description="path inside the bundle")
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "int8", "fp16"]
    recipe: str = Field(description="quantization: fp32, dynamic, static …")
    weight_bits: int = Field(32, description="8 saturates on processors without VNNI, 7 never does")
    golden_tolerance: float = Field(gt=0, description="largest |Δlogit| from golden.json that start-up accepts")


class CascadeInfo(Record):
    """What is known of the gate of a bundle, for readers of `bundle.json`; it is the same in `gate.json`."""

    share: float = Field(description="share of `rows` that the gate answers")
    max_loss: float = Field(description="points of accuracy that the cascade may lose against `reference`")
    bound_points: float = Field(description="points that it loses at most, by `rows` and with `confidence`")
    confidence: float
    reference: Literal["student", "full model"]
    rows: int = Field(description="rows that decided the threshold, and nothing else")

    @classmethod
    def of(cls, gate: GateInfo) -> "CascadeInfo":
        """Return what the settings of a gate say."""
        return cls(**{name: getattr(gate, name) for name in cls.model_fields})


class BundleInfo(Record):
    """The ONNX files of a bundle, the default one of each device, and what is known of its gate."""

    name: str = Field(description="display name of the model")
    variants: dict[str, Variant]
    default: dict[Literal["cpu", "cuda"], str]
    cascade: CascadeInfo | None = Field(None, description="None: there is no gate, or an earlier version wrote it")

    @model_validator(mode="after")
    def _defaults_exist(self) -> Self:
        missing = [v for v in self.default.values() if v not in self.variants]
        if missing:
            raise ValueError(f"default variants {missing} are not among {sorted(self.variants)}")
        return self


class Golden(Record):
    """Rows with the logits of each variant, computed when the bundle was written."""

    rows: tuple[tuple[str, ...], ...]
    logits: dict[str, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: everything that inference needs except the session."""

    folder: ModelFolder
    info: BundleInfo
    task: Task
    architecture: Architecture
    golden: Golden
    gate: Gate | None = None  # answers the easy texts of a cascade

    @classmethod
    def open(cls, path: Path) -> "Bundle":
        """Open the bundle at `path` and check every file against its manifest.

        Raises:
            FolderError: the folder is incomplete, was altered, or is not a bundle.
        """
        if (Path(path) / "config.json").is_file() and not (Path(path) / MANIFEST).is_file():
            raise FolderError(f"{path} is a Hugging Face folder, not a bundle: {MAKE_BUNDLE}")
        folder = ModelFolder.open(path)
        if not (folder.path / FILE).is_file():
            stage = folder.manifest.lineage[-1].stage
            raise FolderError(f"{path} is the result of '{stage}', not a bundle: {MAKE_BUNDLE}")
        shape = Architecture.read(folder.path / architecture.FILE)
        stored = Task.read(folder.path / task.FILE)
        info = BundleInfo.read(folder.path / FILE)
        return cls(
            folder=folder,
            info=info,
            task=_limit_tokens(stored, shape.positions, path),
            architecture=shape,
            golden=Golden.read(folder.path / GOLDEN),
            gate=_open_gate(folder, stored, info.cascade),
        )

    @property
    def id(self) -> str:
        """Identity of the bundle."""
        return self.folder.id

    def tokenizer(self, max_tokens: int | None = None) -> Tokenizer:
        """Return a tokenizer that truncates at `max_tokens`, by default at those of the task.

        A bundle that was written before `models.compatibility` checked this may have a tokenizer with ids that the
        embedding table lacks: those tokens become the unknown token.

        Raises:
            FolderError: there are such tokens and no unknown token.
        """
        return Tokenizer.open(self.folder.path, max_tokens or self.task.max_tokens, self.architecture.vocabulary)

    def onnx_path(self, variant: str) -> Path:
        """Return the path of a variant's ONNX file."""
        if variant not in self.info.variants:
            raise FolderError(
                f"variant {variant!r} is not in {self.folder.path}: it has {sorted(self.info.variants)}"
            )
        return self.folder.path / self.info.variants[variant].file

    def served_bytes(self, variant: str) -> int:
        """Return the size in reports: bytes of the ONNX file, its weights and the tokenizer."""
        graph, tokenizer = self.onnx_path(variant), self.folder.path / "tokenizer.json"
        return sum(path.stat().st_size for path in (graph, graph.with_suffix(WEIGHTS), tokenizer) if path.is_file())

    def report(self) -> dict[str, Any] | None:
        """Return the report of the command that wrote or last measured the bundle, or None when there is none."""
        path = self.folder.path / REPORT
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _open_gate(folder: ModelFolder, stored: Task, known: CascadeInfo | None) -> Gate | None:
    """Return the gate of a bundle, or None if it has none.

    Raises:
        FolderError: the gate is damaged, is not the one that `bundle.json` describes, or was learned for another
            tokenizer, other labels or another kind of task.
    """
    files = folder.manifest.files
    listed = [name for name in (gate_file.FILE, gate_file.ROWS_FILE) if name in files]
    if not listed and known is None:
        return None
    advice = "run `prunella cascade` on the bundle from which it was made"
    if len(listed) < 2:
        wanted = f"wanted {gate_file.FILE} and {gate_file.ROWS_FILE}" + ("" if known else ", or neither")
        lack = f"the manifest lists {listed[0]} only" if listed else f"{FILE} describes a gate, and there is none"
        raise FolderError(f"{folder.path}: {lack}: {wanted}; {advice}")
    gate, sha256 = Gate.open(folder.path), files[TOKENIZER].sha256 if TOKENIZER in files else "none"
    if known is not None and known != CascadeInfo.of(gate.info):
        raise FolderError(f"{folder.path}: {FILE} and {gate_file.FILE} describe different gates; {advice}")
    if stored.kind != "single" or stored.pair or gate.info.labels != len(stored.labels):
        form = f"{stored.kind}{' on pairs' if stored.pair else ''}, {len(stored.labels)} labels"
        raise FolderError(
            f"{folder.path}: the gate is for one of {gate.info.labels} labels of a text, the task is {form}; {advice}"
        )
    if gate.info.tokenizer_sha256 != sha256:
        raise FolderError(
            f"{folder.path}: the gate was learned for another tokenizer (SHA-256 {gate.info.tokenizer_sha256[:12]}…, "
            f"the bundle's has {sha256[:12]}…); {advice}"
        )
    return gate


def _limit_tokens(stored: Task, positions: int, path: Path) -> Task:
    """Return the task with `max_tokens` limited to the positions of the model."""
    if stored.max_tokens <= positions:
        return stored
    message = "%s: max_tokens is %d and the model has fewer positions: texts are cut at %d tokens"
    log.warning(message, path, stored.max_tokens, positions)
    return stored.model_copy(update={"max_tokens": positions})
