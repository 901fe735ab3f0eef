"""Bundle: the folder that is served. Opens what was published; refuses what is not whole.

tokenizer.json  task.json  architecture.json     what the model is
bundle.json                                      the ONNX files in it, and which processor each is for
onnx/cpu-int8.onnx  cpu-int8.bin …               graph, weights: input_ids, attention_mask[, token_type_ids] → logits
golden.json                                      rows with each variant's logits: the self-check at start-up
report.json                                      what the compression cost and gained (may be renewed)
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
from models.folder import REPORT, ModelFolder
from models.record import Record
from models.task import Task
from models.tokens import Tokenizer

log = logging.getLogger("prunella")
FILE = "bundle.json"
GOLDEN = "golden.json"
WEIGHTS = ".bin"  # of the file beside a graph that holds its weights, where they are not inside


class Variant(Record):
    """One ONNX file of the bundle."""

    file: str = Field(description="path inside the bundle")
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "int8", "fp16"]
    recipe: str = Field(description="how it was made: fp32, dynamic, static …")
    weight_bits: int = Field(32, description="8 saturates on processors without VNNI, 7 never does")
    golden_tolerance: float = Field(gt=0, description="largest |Δlogit| from golden.json that start-up accepts")


class BundleInfo(Record):
    """The ONNX files of a bundle and the one each device takes when nothing else is asked for."""

    name: str = Field(description="what people call this model")
    variants: dict[str, Variant]
    default: dict[Literal["cpu", "cuda"], str]

    @model_validator(mode="after")
    def _defaults_exist(self) -> Self:
        missing = [v for v in self.default.values() if v not in self.variants]
        if missing:
            raise ValueError(f"default variants {missing} are not among {sorted(self.variants)}")
        return self


class Golden(Record):
    """Rows with the logits that each variant gave when it was made."""

    rows: tuple[tuple[str, ...], ...]
    logits: dict[str, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: everything that answering needs except the running session."""

    folder: ModelFolder
    info: BundleInfo
    task: Task
    architecture: Architecture
    golden: Golden

    @classmethod
    def open(cls, path: Path) -> "Bundle":
        """Open the bundle at `path`, checking every file against its manifest.

        Raises:
            FolderError: the folder is not whole, was altered, or is not a bundle.
        """
        folder = ModelFolder.open(path)
        if not (folder.path / FILE).is_file():
            stage = folder.manifest.lineage[-1].stage
            raise FolderError(f"{path} is the result of '{stage}', not a bundle: export or quantize it first")
        shape = Architecture.read(folder.path / architecture.FILE)
        return cls(
            folder=folder,
            info=BundleInfo.read(folder.path / FILE),
            task=_within(shape.positions, Task.read(folder.path / task.FILE), path),
            architecture=shape,
            golden=Golden.read(folder.path / GOLDEN),
        )

    @property
    def id(self) -> str:
        """Identity of the bundle."""
        return self.folder.id

    def tokenizer(self, max_tokens: int | None = None) -> Tokenizer:
        """Return a tokenizer that cuts at `max_tokens`, or at those of the task.

        A bundle made before `models.fit` refused it may have a tokenizer with tokens that its token table lacks: they
        become the unknown token.

        Raises:
            FolderError: there are such tokens and there is no unknown token.
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
        """Return bytes of the ONNX file, its weights and the tokenizer: the size that reports speak of."""
        graph, tokenizer = self.onnx_path(variant), self.folder.path / "tokenizer.json"
        return sum(path.stat().st_size for path in (graph, graph.with_suffix(WEIGHTS), tokenizer) if path.is_file())

    def report(self) -> dict[str, Any] | None:
        """Return what the verb that made or last measured the bundle said of it, or None when none did."""
        path = self.folder.path / REPORT
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _within(positions: int, wanted: Task, path: Path) -> Task:
    """Return the task with no longer inputs than the model has positions for."""
    if wanted.max_tokens <= positions:
        return wanted
    told = "%s takes %d tokens and has positions for fewer: texts are cut at %d tokens"
    log.warning(told, path, wanted.max_tokens, positions)
    return wanted.model_copy(update={"max_tokens": positions})
