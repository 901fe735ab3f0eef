"""CompressConfig: all settings of compression except the target, by stage."""

from typing import Literal, Self

from pydantic import Field, model_validator

from bench.measure.accuracy.difference import Metric
from export.graph_precision import EmbeddingBits
from models.schema import Record, Settings
from models.train.training_config import TrainingConfig

INT8_SHARE = 0.5  # share of max_loss that int8 may lose if the model was pruned; the rest is for the pruning
Order = Literal["obs", "fisher", "random"]
ENOUGH_TEXTS = 20_000  # from here on overfitting of a pruned model is negligible: no dropout


class Workload(Record):
    """The conditions under which speed is measured."""

    batch: int = Field(1, ge=1, description="texts in a batch")
    threads: int = Field(1, ge=1, description="threads of ONNX Runtime inside one operator")

    def describe(self) -> str:
        """Return a description for people."""
        threads = "one thread" if self.threads == 1 else f"{self.threads} threads"
        return threads if self.batch == 1 else f"{self.batch} texts at once, {threads}"


ALONE = Workload()


class AnalysisConfig(Record):
    """Number of texts for the analysis, and order of removal."""

    texts: int = Field(1024, ge=16, description="texts whose activations correct the remaining weights")
    cost_texts: int = Field(128, ge=8, description="texts on which the cost of each width is measured")
    order: Order = Field("obs", description="order of removal of heads and neurons; fisher and random are baselines")
    correct: bool = Field(True, description="whether least squares corrects the remaining weights")


class DistillConfig(Settings):
    """Settings of healing: distillation after pruning."""

    temperature: float = Field(2.0, gt=0, description="temperature of both softmaxes")
    hidden_weight: float = Field(1.0, ge=0, description="weight of the squared error of hidden states")
    dropout: float | None = Field(None, ge=0, lt=1, description="None: 0.1 for fewer texts than ENOUGH_TEXTS, else 0")
    minutes: float | None = Field(None, gt=0, description="time limit of training: fewer epochs if they take longer")
    training: TrainingConfig = TrainingConfig(  # a learning rate five times as high would first undo the refit
        epochs=6, learning_rate=1e-4, freeze_embeddings=False, sparse_embeddings=True
    )

    def dropout_of(self, texts: int) -> float:
        """Return the dropout rate for a number of training texts."""
        if self.dropout is not None:
            return self.dropout
        return 0.0 if texts >= ENOUGH_TEXTS else 0.1


class CompressConfig(Record):
    """Settings of compression."""

    tolerance: float = Field(0.05, gt=0, lt=1, description="share by which a measurement may miss the target")
    metric: Metric | None = Field(None, description="metric of the loss; None: the default of the task")
    max_loss: float = Field(1.0, ge=0, description="points of the metric that may be lost in total, int8 included")
    vocabulary: Literal["whole", "trim", "trim_if_possible"] = Field(
        "whole", description="whether tokens that the texts do not use are removed"
    )
    embedding_bits: EmbeddingBits | None = Field(
        None, description="bits of the token table; None: 8, or 4 if that loses less than pruning to a size"
    )
    load: Workload = ALONE
    analysis: AnalysisConfig = AnalysisConfig()
    heal: DistillConfig | None = Field(DistillConfig(), description="None: no healing")
    refit: bool = Field(True, description="whether the pruned model is fitted to the residual stream of the full one")
    hidden_width: int | None = Field(None, description="width of the hidden state, a multiple of 32; None: unchanged")
    state_layers: int = Field(2, ge=1, description="number of layers whose hidden states are distilled")
    augment: int = Field(0, ge=0, description="number of variants of each training text")
    seed: int = Field(0, ge=0, description="seed of the choice of texts that are measured on")

    def int8_loss(self, is_cut: bool) -> float:
        """Return the points that int8 may lose: INT8_SHARE of max_loss if the model was pruned, else max_loss."""
        return self.max_loss * (INT8_SHARE if is_cut else 1.0)

    @model_validator(mode="after")
    def _check_healing(self) -> Self:
        if self.heal is None and self.augment:
            raise ValueError("augment needs healing, and heal is None")
        return self
