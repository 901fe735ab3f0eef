"""The losses of fine-tuning, against sums written out in numpy on made-up logits."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from models.errors import InputError
from models.finetuning.losses import LossConfig, loss_for
from models.task import Task

ROWS = [3, 0, 5, 4]  # of a batch: not the first, and not in order
SINGLE = Task(labels=("a", "b", "c"))
MULTI = Task(kind="multi", labels=("a", "b", "c"))
REGRESSION = Task(kind="regression", labels=("value",))
PLACES = np.array([0, 0, 0, 2, 1, 2, 0, 0])
GIVEN = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 0, 0]], dtype=np.float32)
NUMBERS = np.array([1.5, -2.0, 0.0, 4.0, 3.0, 2.5], dtype=np.float32)


class Fixed(nn.Module):
    """Answers with the same logits, as a classifier does: logits and hidden states."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float32))

    def forward(self, batch):
        return self.logits, []


def made_up(columns: int) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 3, (len(ROWS), columns)).astype(np.float32).astype(np.float64)


def loss(task: Task, targets: np.ndarray, config: LossConfig, logits: np.ndarray) -> float:
    return loss_for(task, targets, config)(Fixed(logits), None, torch.tensor(ROWS)).item()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_single_labels(weights, smoothing):
    logits = made_up(3)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    balance = (
        compute_class_weight("balanced", classes=np.arange(3), y=PLACES) if weights == "balanced" else np.ones(3)
    )
    spread = (1 - smoothing) * np.eye(3)[PLACES[ROWS]] + smoothing / 3
    wanted = -(spread * balance * logs).sum()
    config = LossConfig(class_weights=weights, label_smoothing=smoothing)
    assert loss(SINGLE, PLACES, config, logits) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_several_labels(weights, smoothing):
    logits = made_up(3)
    yes = 1 / (1 + np.exp(-logits))
    truth = GIVEN[ROWS] * (1 - smoothing) + smoothing / 2
    # six rows: the first label is given five times, the second twice, the third never (as if once)
    balance = np.array([1 / 5, 4 / 2, 5 / 1]) if weights == "balanced" else np.ones(3)
    wanted = -(balance * truth * np.log(yes) + (1 - truth) * np.log(1 - yes)).mean(1).sum()
    config = LossConfig(class_weights=weights, label_smoothing=smoothing)
    assert loss(MULTI, GIVEN, config, logits) == pytest.approx(wanted, rel=1e-5)


def test_a_number():
    logits = made_up(1)
    wanted = ((logits[:, 0] - NUMBERS[ROWS]) ** 2).sum()
    assert loss(REGRESSION, NUMBERS, LossConfig(), logits) == pytest.approx(wanted, rel=1e-5)


def test_balanced_weights_leave_the_size_of_the_whole_loss():
    """Equal logits on all rows: weights that have a mean of 1 over the rows change nothing."""
    rows = torch.arange(len(PLACES))
    flat = Fixed(np.zeros((len(PLACES), 3)))
    found = [
        loss_for(SINGLE, PLACES, LossConfig(class_weights=weights))(flat, None, rows).item()
        for weights in ("none", "balanced")
    ]
    assert found[1] == pytest.approx(found[0]) == pytest.approx(len(PLACES) * np.log(3))


def test_half_precision_logits_are_summed_in_fp32():
    class Half(Fixed):
        def forward(self, batch):
            return self.logits.bfloat16(), []

    found = loss_for(SINGLE, PLACES, LossConfig())(Half(made_up(3)), None, torch.tensor(ROWS))
    assert found.dtype == torch.float32


@pytest.mark.parametrize("config", [LossConfig(class_weights="balanced"), LossConfig(label_smoothing=0.1)])
def test_a_regression_has_neither_weights_nor_smoothing(config):
    with pytest.raises(InputError, match="a regression has neither class weights nor label smoothing"):
        loss_for(REGRESSION, NUMBERS, config)
