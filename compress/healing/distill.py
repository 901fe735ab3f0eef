"""distill(): train the student on the teacher's logits and hidden states (Hinton et al. 2015; Sun et al. 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.config import DistillConfig
from compress.healing.teacher_cache import Teacher
from models.classifier import Classifier, TensorBatch
from models.finetuning.predict import predict
from models.finetuning.text_objective import TextObjective
from models.task import Kind
from models.tokenizer import Encoded, Tokenizer
from models.train.divergence import divergence
from models.train.history import History
from models.train.loop import Run, TrainingConfig, fit

DISTANCE = "distance"  # metric for early stopping: mean divergence from the teacher's logits on held-out texts
HELD_OUT = (64, 1024)  # least and most; a twentieth of the texts (not variants); of few texts, at most a fifth


@dataclass(frozen=True, slots=True)
class DistillationData:
    """Training texts, and the stored outputs of the teacher for them."""

    teacher: Teacher
    encoded: Sequence[Encoded]
    origins: NDArray[np.int64]  # (texts, 2), numbers of the one or two texts that each is made of; one: listed twice
    tokenizer: Tokenizer
    kind: Kind  # decides the divergence
    channels: Tensor | None = None  # indices of the teacher's channels that the student has, (width,); None: all


def distill(
    student: Classifier, data: DistillationData, config: DistillConfig, scratch: Path | None = None
) -> History:
    """Train `student` in place.

    The target of a layer's hidden states is the hidden states of the same layer of the teacher; for a narrower
    student, those of the channels that it has. Their squared error is divided by the squared norm of the teacher's
    states, so that the weight of this loss means the same for every model. For the same reason the predictions of a
    regression are divided by the standard deviation of the teacher's.

    With the metric `distance`, some texts and their variants are held out. The student is evaluated on them during
    training, and at the end gets the weights with the least divergence from the teacher.

    Args:
        student: the pruned model; its layers have the numbers of the teacher's layers.
        data: training texts and the teacher's outputs.
        config: training settings and weights of the losses.
        scratch: folder for the snapshot from which a killed run continues.
    """
    teacher, encoded, training = data.teacher, data.encoded, config.training
    trained, held_out = _hold_out(data.origins, training)
    spread = max(float(teacher.logits.std(correction=0)), 1e-8) if data.kind == "regression" else 1.0

    def loss_of(model: nn.Module, batch: TensorBatch, rows: Tensor) -> Tensor:
        texts = trained[rows.cpu()]
        logits, states = model(batch)
        target = teacher.logits[texts].to(logits.device)
        loss = divergence(data.kind, logits.float() / spread, target / spread, config.temperature).sum()
        if config.hidden_weight:
            target_states = teacher.states(texts.tolist(), batch.ids.shape[1])
            target_states = target_states if data.channels is None else target_states[..., data.channels]
            errors = distances(
                [states[layer] for layer in teacher.layers], target_states.to(logits.device), batch.mask
            )
            loss = loss + config.hidden_weight * errors.sum()
        return loss

    def evaluate(model: nn.Module) -> dict[str, float]:
        texts = [encoded[i] for i in held_out.tolist()]
        logits = torch.from_numpy(predict(cast(Classifier, model), texts, data.tokenizer))
        target = teacher.logits[held_out]
        return {DISTANCE: float(divergence(data.kind, logits / spread, target / spread, config.temperature).mean())}

    objective = TextObjective([encoded[i] for i in trained.tolist()], data.tokenizer, loss_of)
    run = Run(
        scratch=scratch, evaluate=evaluate if len(held_out) else None, lower_is_better=True, minutes=config.minutes,
        describe="heal",
    )  # fmt: skip
    return fit(student, objective, training, run)


def _hold_out(origins: NDArray[np.int64], training: TrainingConfig) -> tuple[Tensor, Tensor]:
    """Return the numbers of the texts for training, and of the held-out texts: none, if there is no metric.

    Variants and repetitions of a held-out text are in neither set: they share half of its tokens or more.

    Args:
        origins: numbers of the texts that each text is made of, (texts, 2).
        training: its metric and its seed.
    """
    texts = np.flatnonzero((origins == np.arange(len(origins))[:, None]).all(1))  # neither variants nor repetitions
    least, most = HELD_OUT
    count = min(most, max(len(texts) // 20, min(least, len(texts) // 5))) if training.metric is not None else 0
    held_out = np.sort(np.random.default_rng(training.seed).permutation(texts)[:count])
    trained = np.flatnonzero(~np.isin(origins, held_out).any(1))
    return torch.from_numpy(trained), torch.from_numpy(held_out)


def distances(states: Sequence[Tensor], reference: Tensor, mask: Tensor) -> Tensor:
    """Return the relative error of each text's states, (texts,): ‖states - reference‖² / ‖reference‖².

    The ratio is taken per text, not per batch, so that the weight of a text does not depend on the other texts in its
    batch or on the number of processes. It is averaged over the layers.

    Args:
        states: states of some layers, each (texts, tokens, width).
        reference: states of the same layers, (layers, texts, tokens, width).
        mask: 1 for a token that is not padding, (texts, tokens).
    """
    real = mask[:, :, None].float()
    ratios = [
        ((one.float() - other).pow(2) * real).sum((1, 2)) / (other.pow(2) * real).sum((1, 2)).clamp(min=1e-9)
        for one, other in zip(states, reference, strict=True)
    ]
    return torch.stack(ratios).mean(0)
