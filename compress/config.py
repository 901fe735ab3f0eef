"""CompressConfig: how a model is compressed, beside the target."""

from typing import Literal, Self

from pydantic import Field, model_validator

from compress.analysis import AnalysisConfig
from compress.clock import ALONE, Load
from compress.distill import DistillConfig
from export.precision import EmbeddingBits
from models.record import Record


class CompressConfig(Record):
    """Settings of compression."""

    tolerance: float = Field(0.05, gt=0, lt=1, description="share by which a measured figure may miss the target")
    vocabulary: bool = Field(True, description="whether tokens that the texts do not use are dropped")
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
