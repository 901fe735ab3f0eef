import numpy as np
import pytest

from export.agreement import check_agreement, measure_agreement
from models.errors import DisagreementError
from models.task import Task

SINGLE, MULTI = Task(labels=("a", "b")), Task(kind="multi", labels=("a", "b", "c"))
NUMBER = Task(kind="regression", labels=("value",))


def test_a_flipped_label_costs_what_it_cost_on_labelled_rows():
    wanted = np.array([[2, 0], [2, 0], [0, 2], [0, 2]], dtype=np.float32)
    found = np.array([[2, 1], [0, 3], [3, 0], [0, 2]], dtype=np.float32)
    told = measure_agreement(SINGLE, wanted, found, np.array([0, 0, 0, 1]))  # one right answer lost, one won
    assert (told.flips, told.decisions, told.loss_points, told.loss_is) == (2, 4, 0, "accuracy")
    assert (told.reference_accuracy, told.accuracy) == (0.75, 0.75)
    assert (told.max_difference, told.mean_difference) == (3, pytest.approx(11 / 8))


def test_without_labels_a_flip_costs_what_fp32_is_sure_of():
    wanted = np.log(np.array([[0.9, 0.1], [0.55, 0.45]], dtype=np.float32))
    flipped = wanted[:, ::-1].copy()
    assert measure_agreement(SINGLE, wanted, flipped).loss_points == pytest.approx(100 * (0.8 + 0.1) / 2, rel=1e-4)
    near = measure_agreement(SINGLE, wanted, np.stack([wanted[0], flipped[1]]))
    assert (near.flips, near.loss_points) == (1, pytest.approx(5, rel=1e-4))


def test_the_expected_loss_is_the_counted_one_where_scores_are_probabilities():
    generator = np.random.default_rng(0)
    wanted = generator.normal(0, 1.5, (60_000, 2)).astype(np.float32)
    found = wanted + generator.normal(0, 0.4, wanted.shape).astype(np.float32)
    truth = (generator.random(len(wanted)) < SINGLE.scores(wanted)[:, 1]).astype(np.int64)
    expected = measure_agreement(SINGLE, wanted, found).loss_points
    assert measure_agreement(SINGLE, wanted, found, truth).loss_points == pytest.approx(expected, abs=0.15)


def test_every_label_of_a_multi_label_task_is_a_decision():
    wanted = np.array([[1, -1, 3], [-2, 2, -1]], dtype=np.float32)
    found = np.array([[-1, -1, 3], [-2, 2, 1]], dtype=np.float32)
    told = measure_agreement(MULTI, wanted, found)
    assert (told.decisions, told.flips, told.loss_is) == (6, 2, "expected")
    truth = np.array([[1, 0, 1], [0, 1, 1]], dtype=np.float32)
    told = measure_agreement(MULTI, wanted, found, truth)
    assert (told.reference_accuracy, told.accuracy) == (pytest.approx(5 / 6), pytest.approx(5 / 6))


def test_a_regression_is_judged_by_its_correlation():
    wanted = np.array([[0.0], [2.0], [4.0]], dtype=np.float32)
    found = np.array([[0.5], [1.0], [4.5]], dtype=np.float32)
    told = measure_agreement(NUMBER, wanted, found)
    assert (told.flips, told.decisions, told.loss_is) == (0, 0, "expected_pearson")
    assert told.loss_points == pytest.approx(100 * (1 - np.corrcoef(wanted[:, 0], found[:, 0])[0, 1]), rel=1e-4)
    truth = np.array([1.0, 0.0, 3.0], dtype=np.float32)
    told = measure_agreement(NUMBER, wanted, found, truth)
    was, now = (np.corrcoef(truth, answers[:, 0])[0, 1] for answers in (wanted, found))
    assert (told.reference_pearson, told.pearson) == (pytest.approx(was), pytest.approx(now))
    assert (told.loss_is, told.loss_points) == ("pearson", pytest.approx(100 * (was - now)))


@pytest.mark.parametrize("wrong", [0.2, np.nan])
def test_logits_that_are_too_far_apart_are_an_error(wrong):
    wanted = np.zeros((3, 2), dtype=np.float32)
    found = wanted.copy()
    found[1, 1] += wrong
    with pytest.raises(DisagreementError, match="at most 0\\.1 was wanted"):
        check_agreement(measure_agreement(SINGLE, wanted, found), "int8", 0.1)
