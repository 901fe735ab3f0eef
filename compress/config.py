"""CompressConfig: how a model is compressed, beside the target."""

from typing import Literal, Self

from pydantic import Field, model_validator

from bench.accuracy import Metric
from compress.analysis import AnalysisConfig
from compress.clock import ALONE, Load
from compress.distill import DistillConfig
from export.precision import EmbeddingBits
from models.record import Record

INT8_SHARE = 0.5  # of the loss that is allowed, where the other half is for what was cut


class CompressConfig(Record):
    """Settings of compression."""

    tolerance: float = Field(0.05, gt=0, lt=1, description="share by which a measured figure may miss the target")
    metric: Metric | None = Field(None, description="what a loss is a loss of; None: the task's own")
    max_loss: float = Field(1.0, ge=0, description="points that may be lost in all; a part of them is int8's")
    vocabulary: Literal["whole", "trim", "trim_if_possible"] = Field(
        "whole", description="whether tokens that the texts do not use are dropped"
    )
    embedding_bits: EmbeddingBits | None = Field(
        None, description="of the token table; None: 8, or 4 where 8 would cut more for a size that is asked for"
    )
    load: Load = ALONE
    analysis: AnalysisConfig = AnalysisConfig()
    heal: DistillConfig | None = Field(DistillConfig(), description="None: nothing is trained")
    refit: bool = Field(True, description="whether the cut model is fitted to the full one's residual stream")
    hidden_width: int | Literal["auto"] | None = Field(
        None, description="of the hidden state, a multiple of 32; auto: the best of some, untrained; None: it stays"
    )
    state_layers: int = Field(2, ge=1, description="layers whose hidden states the student learns from")
    augment: int = Field(0, ge=0, description="times as many variants as texts, which the student learns from too")
    seed: int = Field(0, ge=0, description="of the texts that are measured on")

    def int8_loss(self, is_cut: bool) -> float:
        """Return the points that int8 may lose: INT8_SHARE of all where the model was cut, else all of them."""
        return self.max_loss * (INT8_SHARE if is_cut else 1.0)

    @model_validator(mode="after")
    def _fits_the_training(self) -> Self:
        if self.heal is None and self.augment:
            raise ValueError("variants of texts are for healing, and nothing is trained")
        if self.heal is not None and self.hidden_width == "auto":
            raise ValueError(
                "the best hidden width is known of students that are not trained (--mode instant): what is nearest "
                "before healing does not tell; give a number"
            )
        return self
