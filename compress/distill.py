"""distill(): the student heals on its teacher's answers and hidden states (Hinton et al. 2015; Sun et al. 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from compress.divergence import divergence
from compress.teacher import Teacher
from models.classifier import Classifier, TensorBatch
from models.record import Settings
from models.task import Kind
from models.tokens import Encoded, Tokenizer
from models.train.history import History
from models.train.loop import Run, TrainingConfig, fit
from models.train.predict import predict
from models.train.text_objective import TextObjective

DISTANCE = "distance"  # the metric that can be watched: mean divergence from the teacher's answers, held-out texts
ENOUGH_TEXTS = 20_000  # a cut model hardly learns so many by heart: dropout would only disturb it
HELD_OUT = (64, 1024)  # texts on which it is watched: a twentieth of all (no variants), but of few a fifth or 64


class DistillConfig(Settings):
    """Settings of the healing."""

    temperature: float = Field(2.0, gt=0, description="softens both answers")
    hidden_weight: float = Field(1.0, ge=0, description="weight of the hidden states' squared error")
    dropout: float | None = Field(None, ge=0, lt=1, description="None: 0.1 for fewer texts than ENOUGH_TEXTS, else 0")
    minutes: float | None = Field(None, gt=0, description="most time to train: fewer epochs where they take longer")
    training: TrainingConfig = TrainingConfig(  # the student is fitted already: five times the rate undoes that first
        epochs=6, learning_rate=1e-4, freeze_embeddings=False, sparse_embeddings=True
    )

    def dropout_of(self, texts: int) -> float:
        """Return the rate of dropout for so many texts."""
        if self.dropout is not None:
            return self.dropout
        return 0.0 if texts >= ENOUGH_TEXTS else 0.1


@dataclass(frozen=True, slots=True)
class Lessons:
    """Texts, and what was kept of the teacher's answers to them."""

    teacher: Teacher
    encoded: Sequence[Encoded]
    origins: NDArray[np.int64]  # (texts, 2), the numbers of the texts that each is made of: its own twice, or two
    tokenizer: Tokenizer
    kind: Kind  # what the logits mean
    channels: Tensor | None = None  # of the teacher's states that a narrower student has, (width,); None: all


def distill(student: Classifier, lessons: Lessons, config: DistillConfig, scratch: Path | None = None) -> History:
    """Train `student` in place.

    A layer of the student learns from the states after the same layer of the teacher, a narrower one from those of
    the channels that it has. The error of a text's states is a share of the teacher's own square, so that its weight
    means the same for every model. Numbers of a regression are standardized by the spread of the teacher's, for the
    same reason.

    With the metric `distance` some texts are held out, with their variants; the student is judged on them as it
    heals, and ends as it was when it answered them most like the teacher.

    Args:
        student: a cut model; its layers stand where the teacher's do.
        lessons: what it learns.
        config: how long and how fast.
        scratch: where the snapshot is kept, from which a killed run goes on.
    """
    teacher, encoded, training = lessons.teacher, lessons.encoded, config.training
    learned, watched = _hold_out(lessons.origins, training)
    spread = max(float(teacher.logits.std(correction=0)), 1e-8) if lessons.kind == "regression" else 1.0

    def loss_of(model: nn.Module, batch: TensorBatch, rows: Tensor) -> Tensor:
        texts = learned[rows.cpu()]
        found, states = model(batch)
        wanted = teacher.logits[texts].to(found.device)
        loss = divergence(lessons.kind, found.float() / spread, wanted / spread, config.temperature).sum()
        if config.hidden_weight:
            known = teacher.states(texts.tolist(), batch.ids.shape[1])
            known = known if lessons.channels is None else known[..., lessons.channels]
            far = distances([states[layer] for layer in teacher.layers], known.to(found.device), batch.mask)
            loss = loss + config.hidden_weight * far.sum()
        return loss

    def judge(model: nn.Module) -> dict[str, float]:
        texts = [encoded[i] for i in watched.tolist()]
        found = torch.from_numpy(predict(cast(Classifier, model), texts, lessons.tokenizer))
        wanted = teacher.logits[watched]
        return {DISTANCE: float(divergence(lessons.kind, found / spread, wanted / spread, config.temperature).mean())}

    objective = TextObjective([encoded[i] for i in learned.tolist()], lessons.tokenizer, loss_of)
    evaluate = judge if len(watched) else None
    run = Run(
        scratch=scratch, evaluate=evaluate, lower_is_better=True, minutes=config.minutes, describe="heal"
    )  # fmt: skip
    return fit(student, objective, training, run)


def _hold_out(origins: NDArray[np.int64], training: TrainingConfig) -> tuple[Tensor, Tensor]:
    """Return the numbers of the texts to learn from, and of those to watch: none, where no metric is.

    What is made of a watched text shares half of its tokens or more: it is neither learned nor watched.

    Args:
        origins: the numbers of the texts that each is made of, (texts, 2).
        training: its metric and its seed.
    """
    texts = np.flatnonzero((origins == np.arange(len(origins))[:, None]).all(1))  # neither variants nor repetitions
    least, most = HELD_OUT
    held = min(most, max(len(texts) // 20, min(least, len(texts) // 5))) if training.metric is not None else 0
    watched = np.sort(np.random.default_rng(training.seed).permutation(texts)[:held])
    learned = np.flatnonzero(~np.isin(origins, watched).any(1))
    return torch.from_numpy(learned), torch.from_numpy(watched)


def distances(states: Sequence[Tensor], wanted: Tensor, mask: Tensor) -> Tensor:
    """Return how far each text's states are, (texts,): the squared error as a share of the wanted ones' square.

    A share a text, and not one a batch, so that a text weighs the same whoever is in its batch or process.

    Args:
        states: of some layers, (texts, tokens, width) each.
        wanted: of the same layers, (layers, texts, tokens, width).
        mask: 1 for a real token, (texts, tokens).
    """
    real = mask[:, :, None].float()
    shares = [
        ((one.float() - other).pow(2) * real).sum((1, 2)) / (other.pow(2) * real).sum((1, 2)).clamp(min=1e-9)
        for one, other in zip(states, wanted, strict=True)
    ]
    return torch.stack(shares).mean(0)
