"""distill(): the student heals on its teacher's answers and hidden states."""

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from pydantic import Field
from torch import Tensor, nn

from models.classifier import Classifier, TensorBatch
from models.record import Record
from models.tokens import Encoded, Tokenizer
from models.train.history import History
from models.train.loop import Run, TrainingConfig, fit
from models.train.text_objective import TextObjective


class DistillConfig(Record):
    """Settings of the healing."""

    temperature: float = Field(2.0, gt=0, description="softens both answers (Hinton et al. 2015)")
    hidden_weight: float = Field(1.0, ge=0, description="weight of the hidden states' squared error")
    training: TrainingConfig = TrainingConfig(epochs=3, learning_rate=3e-4)


def distill(
    student: Classifier, teacher: Classifier, encoded: Sequence[Encoded], tokenizer: Tokenizer, config: DistillConfig
) -> History:
    """Train `student` in place; widths of hidden states are equal, so layer l learns from the teacher's layer l."""
    teacher.eval()

    def loss_of(model: nn.Module, batch: TensorBatch, rows: Tensor) -> Tensor:
        with torch.no_grad():
            wanted, wanted_states = teacher(batch)
        found, states = model(batch)
        soft = config.temperature
        answers = functional.kl_div(
            functional.log_softmax(found / soft, -1),
            functional.log_softmax(wanted.float() / soft, -1),
            reduction="sum",
            log_target=True,
        )
        real = batch.mask[:, :, None].float()
        errors = [
            ((a - b).pow(2) * real).mean(-1).sum() / real.sum() for a, b in zip(states, wanted_states, strict=True)
        ]
        return answers * soft**2 + len(rows) * config.hidden_weight * torch.stack(errors).mean()

    return fit(student, TextObjective(encoded, tokenizer, loss_of), config.training, Run(describe="heal"))
