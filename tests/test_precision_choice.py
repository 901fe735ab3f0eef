"""--precision auto: bf16 where it is there and faster, and only there."""

import pytest
import torch

from models.train import precision
from models.train.config import TrainingConfig

SECONDS = {torch.float32: 2.0}


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    """A processor with the flag, whose products take the seconds that the test says."""
    precision.bf16_pays.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
    yield
    precision.bf16_pays.cache_clear()


@pytest.mark.parametrize(("bf16", "taken"), [(1.0, True), (1.95, False), (4.0, False)])
def test_bf16_is_taken_where_it_is_faster(monkeypatch, bf16, taken):
    monkeypatch.setattr(precision, "product_seconds", lambda dtype: {**SECONDS, torch.bfloat16: bf16}[dtype])
    assert precision.uses_bf16(TrainingConfig()) is taken


def test_without_the_flag_nothing_is_timed(monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    monkeypatch.setattr(precision, "product_seconds", lambda dtype: pytest.fail("was timed"))
    assert precision.uses_bf16(TrainingConfig()) is False


def test_who_names_a_precision_gets_it(monkeypatch):
    monkeypatch.setattr(precision, "product_seconds", lambda dtype: pytest.fail("was timed"))
    assert precision.uses_bf16(TrainingConfig(precision="bf16")) is True
    assert precision.uses_bf16(TrainingConfig(precision="fp32")) is False


def test_a_product_is_timed_in_both_types():
    assert precision.product_seconds(torch.float32) > 0
    assert precision.product_seconds(torch.bfloat16) > 0
