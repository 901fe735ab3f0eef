"""Dropout: any rate that torch's takes, and no rate that a configuration should not."""

import math

import pytest
import torch
from pydantic import ValidationError

from compress.config import DistillConfig
from models.encoders.dropout import Dropout
from models.finetuning.finetune import FinetuneConfig
from models.pretraining.pretrain import PretrainConfig
from models.train.training_config import TrainingConfig

RATES = [0.0, 1e-9, 0.001, 0.1, 0.5, 0.9, 0.997, 0.998, 0.999, 1 - 1e-9, 1.0]


@pytest.mark.parametrize("rate", RATES)
def test_every_rate_drops_its_share_and_keeps_the_mean(rate):
    torch.manual_seed(0)
    layer = Dropout(rate).train()
    found = layer(torch.ones(1000, 1001))
    dropped = float((found == 0).float().mean())
    assert dropped == pytest.approx(rate, abs=1 / 256)
    assert found.isfinite().all()
    if rate < 0.998:
        assert float(found.mean()) == pytest.approx(1, rel=0.05)
    assert layer.eval()(torch.ones(3)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("config", [FinetuneConfig, PretrainConfig, DistillConfig])
def test_a_rate_that_is_no_share_below_1_is_refused(config, rate):
    with pytest.raises(ValidationError, match="dropout"):
        config(dropout=rate)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("config", "name"),
    [
        (TrainingConfig, "learning_rate"), (TrainingConfig, "warmup"), (TrainingConfig, "weight_decay"),
        (TrainingConfig, "clip"), (TrainingConfig, "layer_decay"), (TrainingConfig, "snapshot_minutes"),
        (PretrainConfig, "minutes"), (DistillConfig, "minutes"), (DistillConfig, "temperature"),
        (DistillConfig, "hidden_weight"),
    ],
)  # fmt: skip
def test_a_setting_that_is_no_number_is_refused(config, name, value):
    with pytest.raises(ValidationError, match=name):
        config(**{name: value})
