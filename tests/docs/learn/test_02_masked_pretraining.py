"""Answers to the exercises of docs/learn/02_masked_pretraining.py."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from models.pretraining.masked_lm import MaskedBatch, new_masked_model
from models.pretraining.pretrain import resolve_size
from models.pretraining.wordpiece import Vocabulary, train_wordpiece


@pytest.fixture
def vocabulary(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("dog bites man\n" * 3)
    return Vocabulary.of(train_wordpiece([file], 60, lowercase=True))


def test_exercise_1_without_positions_reversed_tokens_get_reversed_answers(vocabulary):
    model = new_masked_model(resolve_size("tiny", vocabulary, length=8), dropout=0.0, seed=0).double()
    for parameter in model.parameters():  # new weights are so small that all answers are alike
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    ids = torch.randint(5, vocabulary.size, (1, 6), generator=torch.Generator().manual_seed(0))

    def answers(tokens):
        everywhere = torch.arange(tokens.shape[1])
        return model(MaskedBatch(tokens, torch.ones_like(tokens), everywhere, tokens[0]))

    with torch.no_grad():
        assert not torch.allclose(answers(ids), answers(ids.flip(1)).flip(0), atol=1e-3)
        model.encoder.embeddings.positions.weight.zero_()
        assert torch.allclose(answers(ids), answers(ids.flip(1)).flip(0), atol=1e-9)


def test_exercise_2_without_bias_correction_the_first_step_is_three_times_as_long():
    beta1, beta2, gradient, rate = 0.9, 0.999, 0.37, 1e-3
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=rate, betas=(beta1, beta2), eps=0)
    (gradient * weight).sum().backward()
    optimizer.step()
    assert -weight.item() == pytest.approx(rate)  # with it, the first step is as long as the learning rate
    uncorrected = rate * (1 - beta1) * gradient / math.sqrt((1 - beta2) * gradient**2)
    assert uncorrected / rate == pytest.approx((1 - beta1) / math.sqrt(1 - beta2))
    assert uncorrected / rate == pytest.approx(3.162, abs=1e-3)


def test_exercise_3_the_loss_is_the_log_of_1_plus_the_weight_of_all_others():
    size = 4000
    for logit in (0.0, 5.0, 12.0):
        logits = torch.zeros(1, size, dtype=torch.float64)
        logits[0, 7] = logit
        loss = float(cross_entropy(logits, torch.tensor([7])))
        assert loss == pytest.approx(math.log(1 + (size - 1) * math.exp(-logit)))
    enough = math.log((size - 1) / (math.exp(0.1) - 1))
    assert enough == pytest.approx(10.546, abs=1e-3)
