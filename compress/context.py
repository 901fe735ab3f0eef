"""CompressionContext: what all targets and stages of one run share."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.config import ALONE, Workload
from compress.inputs.inputs import CompressionInputs
from models.store.folder import ModelFolder
from models.store.stage_seconds import StageSeconds
from models.tokenizer import Encoded


@dataclass(frozen=True, slots=True)
class TeacherCache:
    """The texts of distillation, and the folder with the full model's answers to them."""

    folder: ModelFolder
    encoded: list[Encoded]  # the texts, then their variants
    origins: NDArray[np.int64]  # (texts and variants, 2), indices of the texts that each was created from


@dataclass(frozen=True, slots=True)
class CompressionContext:
    """The inputs of the stages that depend on a target."""

    inputs: CompressionInputs
    base: ModelFolder  # the source, or the source with a trimmed vocabulary: pruned, and the teacher of healing
    analysis: ModelFolder
    teacher: TeacherCache | None
    reference: Path  # fp32 graph of the source, exported by optimum
    load: Workload = ALONE  # workload of the measurements of speed
    keep_fp32: frozenset[str] = frozenset()  # sublayers, such as "5.ffn", that must stay in fp32
    seconds: StageSeconds = field(default_factory=StageSeconds)  # of the stages, for the report
