"""Answers to the exercises of docs/learn/04_sgd_and_adam.py."""

import math

import pytest
import torch
from torch import nn

from models.train.optimizer import make_optimizer
from models.train.training_config import TrainingConfig


def sgd(rate: float, steps: int) -> torch.Tensor:
    point = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = torch.optim.SGD([point], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        ((100 * point[0] ** 2 + point[1] ** 2) / 2).backward()
        optimizer.step()
    return point.detach()


def test_exercise_1_the_steep_direction_limits_the_rate_and_the_flat_one_pays_for_it():
    limit = 2 / 100  # x is multiplied by 1 - 100 rate in each step
    assert abs(sgd(1.01 * limit, 500)[0]) > 1e3
    assert abs(sgd(0.99 * limit, 500)[0]) < 1e-3
    steps = math.ceil(math.log(0.01) / math.log(1 - limit))  # y is multiplied by 1 - rate
    assert steps == 228
    assert abs(sgd(limit, steps)[1]) <= 0.01 < abs(sgd(limit, steps - 1)[1])


def moved(make, factor: float) -> torch.Tensor:
    """Return how far the weights of a layer move in three steps on a loss that is multiplied by a factor."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 3).double()
    inputs, before = torch.randn(5, 4, dtype=torch.float64), layer.weight.detach().clone()
    optimizer = make(layer)
    for _ in range(3):
        optimizer.zero_grad()
        (factor * layer(inputs).square().mean()).backward()
        optimizer.step()
    return layer.weight.detach() - before


def test_exercise_2_a_thousandfold_loss_makes_the_first_steps_of_sgd_a_thousand_times_longer_and_not_adams():
    settings = TrainingConfig(learning_rate=1e-3, weight_decay=0.0)
    adam = [moved(lambda layer: make_optimizer(layer, settings), factor) for factor in (1, 1000)]
    assert torch.allclose(*adam, atol=1e-7)  # the ratio of the two means is free of the factor
    plain = [moved(lambda layer: torch.optim.SGD(layer.parameters(), lr=1e-6), factor) for factor in (1, 1000)]
    assert float(plain[1].norm() / plain[0].norm()) == pytest.approx(1000, rel=0.01)


def test_exercise_3_with_momentum_a_constant_gradient_makes_ten_times_longer_steps():
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.01, momentum=0.9)
    for _ in range(300):
        before = weight.item()
        optimizer.zero_grad()
        weight.sum().backward()
        optimizer.step()
    assert before - weight.item() == pytest.approx(0.01 / (1 - 0.9))  # without momentum: 0.01
