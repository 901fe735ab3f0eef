"""CompressionContext: what all targets and stages of one run share."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from compress.config import ALONE, Workload
from compress.inputs.inputs import CompressionInputs
from models.store.folder import ModelFolder
from models.store.stage_seconds import StageSeconds
from models.teachers.guidance import Guidance
from models.tokenizer import Encoded


@dataclass(frozen=True, slots=True)
class Taught:
    """Answers of better teachers than the full model."""

    logits: Tensor  # (texts, labels), whose probabilities at the temperature of healing are the mean of the teachers'
    identity: list[Any]  # what decides them


@dataclass(frozen=True, slots=True)
class TeacherCache:
    """The texts of distillation, and the folder with the full model's answers to them."""

    folder: ModelFolder
    encoded: list[Encoded]  # the texts, then their variants
    origins: NDArray[np.int64]  # (texts and variants, 2), indices of the texts that each was created from
    taught: Taught | None = None  # None: the student learns the full model's answers


@dataclass(frozen=True, slots=True)
class CompressionContext:
    """The inputs of the stages that depend on a target."""

    inputs: CompressionInputs
    base: ModelFolder  # the source, or the source with a trimmed vocabulary: pruned, and the teacher of healing
    analysis: ModelFolder
    teacher: TeacherCache | None
    reference: Path  # fp32 graph of the model that is compared with, exported by optimum
    guidance: Guidance | None = None  # teachers that the losses are reported against too
    load: Workload = ALONE  # workload of the measurements of speed
    keep_fp32: frozenset[str] = frozenset()  # sublayers, such as "5.ffn", that must stay in fp32
    seconds: StageSeconds = field(default_factory=StageSeconds)  # of the stages, for the report
