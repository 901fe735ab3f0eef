"""Answers to the exercises of docs/learn/03_finetuning.py."""

import numpy as np
import pytest

from models.finetuning.metrics import choose_thresholds, score
from models.task import Task

TASK = Task(labels=("negative", "positive"), max_tokens=32)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_exercise_1_who_always_says_positive_has_recall_1_and_the_share_as_accuracy_and_precision(share):
    truth = np.array([1] * round(1000 * share) + [0] * round(1000 * (1 - share)))
    always = np.eye(2, dtype=np.float32)[np.ones(1000, dtype=int)]
    result = score(TASK, truth, always)
    positive = result.labels[1]
    assert (result.accuracy, positive.precision, positive.recall) == pytest.approx((share, share, 1.0))
    assert positive.f1 == pytest.approx(2 * share / (1 + share))


def test_exercise_2_a_threshold_looks_better_on_the_rows_that_chose_it():
    task = Task(kind="multi", labels=("positive",), max_tokens=32)

    def f1(truth, probabilities, threshold):
        chosen = task.model_copy(update={"thresholds": (threshold,)})
        return score(chosen, truth, probabilities).micro_f1

    own, other = [], []
    for seed in range(30):  # answers that know something, with much noise
        generator = np.random.default_rng(seed)
        truth = (generator.random((200, 1)) < 0.3).astype(np.float32)
        logits = truth - 0.5 + generator.normal(0, 1, truth.shape)
        probabilities = (1 / (1 + np.exp(-logits))).astype(np.float32)
        (threshold,) = choose_thresholds(truth[:100], probabilities[:100])
        own.append(f1(truth[:100], probabilities[:100], threshold))
        other.append(f1(truth[100:], probabilities[100:], threshold))
    # the choice used the chance of its rows as well, and this part of the score is gone on others
    assert np.mean(own) > np.mean(other) + 0.02


def test_exercise_3_the_mean_has_the_smallest_squared_error_and_the_median_the_smallest_absolute_one():
    ratings = np.array([-3.0, -1.0, 0.0, 2.0, 4.0, 4.0, 4.0])
    constants = np.linspace(-4, 4, 801)
    errors = constants[:, None] - ratings
    assert constants[(errors**2).mean(axis=1).argmin()] == pytest.approx(ratings.mean(), abs=0.01)
    assert constants[np.abs(errors).mean(axis=1).argmin()] == pytest.approx(np.median(ratings), abs=0.01)
