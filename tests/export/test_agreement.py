import numpy as np
import pytest

from bench.measure.accuracy.f1 import f1_of
from export.agreement import Scorer, check_agreement, measure_agreement
from models.errors import DisagreementError
from models.task import Task

SINGLE, MULTI = Task(labels=("a", "b")), Task(kind="multi", labels=("a", "b", "c"))
NUMBER = Task(kind="regression", labels=("value",))


def test_a_flipped_label_costs_what_it_cost_on_labelled_rows():
    wanted = np.array([[2, 0], [2, 0], [0, 2], [0, 2]], dtype=np.float32)
    found = np.array([[2, 1], [0, 3], [3, 0], [0, 2]], dtype=np.float32)
    told = measure_agreement(SINGLE, wanted, found, np.array([0, 0, 0, 1]))  # one right answer lost, one won
    assert (told.flips, told.decisions, told.loss_points, told.loss_is) == (2, 4, 0, "accuracy")
    assert (told.reference_score, told.score, told.rows_changed) == (0.75, 0.75, 2)
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
    told = measure_agreement(MULTI, wanted, found, truth)  # of each row one decision was right and the other is
    assert (told.loss_is, told.reference_score, told.score) == ("subset_accuracy", 0.5, 0.5)
    assert told.rows_changed == 2


def many_labels(rows=40, labels=100):
    """Return logits that give each row two of a hundred labels, and which those are."""
    truth = np.zeros((rows, labels), dtype=np.float32)
    for row in range(rows):
        truth[row, [row, row + labels // 2]] = 1
    return np.where(truth > 0, 3, -5).astype(np.float32), truth


@pytest.mark.parametrize("is_labelled", [False, True])
def test_losing_every_label_of_a_hundred_is_no_small_loss(is_labelled):
    task = Task(kind="multi", labels=tuple(f"l{i}" for i in range(100)))
    wanted, truth = many_labels()
    lost = measure_agreement(task, wanted, np.full_like(wanted, -5), truth if is_labelled else None)
    assert (lost.flips, lost.decisions, lost.rows_changed) == (80, 4000, 40)
    assert lost.loss_points > 85
    half = wanted.copy()
    half[:20] = -5
    assert 40 < measure_agreement(task, wanted, half, truth if is_labelled else None).loss_points < 55


def test_another_metric_says_what_is_lost():
    task = Task(kind="multi", labels=tuple(f"l{i}" for i in range(100)))
    wanted, truth = many_labels()
    scorer = Scorer("micro_f1", lambda t, a: f1_of(t, a, "micro_f1"))
    lost = measure_agreement(task, wanted, np.full_like(wanted, -5), truth, scorer)
    assert (lost.loss_is, lost.reference_score, lost.score, lost.loss_points) == ("micro_f1", 1, 0, 100)


def test_a_decision_at_its_own_threshold_costs_nothing_and_one_far_from_it_much():
    task = Task(kind="multi", labels=("rare",), thresholds=(0.1,))
    scores = np.array([0.1005, 0.0995, 0.5, 0.9], dtype=np.float32)[:, None]
    wanted = np.log(scores / (1 - scores))
    flipped = np.where(scores >= 0.1, -9, 9).astype(np.float32)
    costs = [measure_agreement(task, wanted[[i]], flipped[[i]]).loss_points for i in range(4)]
    assert costs == pytest.approx([0, 0, 100 * 0.4 / 0.9, 100 * 0.8 / 0.9], abs=0.6)


def test_without_labels_a_rare_label_weighs_as_much_as_a_usual_one_under_macro_f1():
    wanted = np.tile(np.array([[4, 0]], dtype=np.float32), (100, 1))
    wanted[:5] = [0, 4]
    found = np.tile(wanted[-1:], (100, 1))  # the usual answer for all
    scorer = Scorer("macro_f1", lambda t, a: f1_of(t, a, "macro_f1"))
    assert measure_agreement(SINGLE, wanted, found).loss_points < 5
    told = measure_agreement(SINGLE, wanted, found, scorer=scorer)
    assert told.loss_is == "expected_balanced"
    assert told.loss_points == pytest.approx(20 * measure_agreement(SINGLE, wanted, found).loss_points / 2, rel=1e-5)


def test_a_regression_is_judged_by_its_correlation():
    wanted = np.array([[0.0], [2.0], [4.0]], dtype=np.float32)
    found = np.array([[0.5], [1.0], [4.5]], dtype=np.float32)
    told = measure_agreement(NUMBER, wanted, found)
    assert (told.flips, told.decisions, told.loss_is) == (0, 0, "expected_pearson")
    assert told.loss_points == pytest.approx(100 * (1 - np.corrcoef(wanted[:, 0], found[:, 0])[0, 1]), rel=1e-4)
    truth = np.array([1.0, 0.0, 3.0], dtype=np.float32)
    told = measure_agreement(NUMBER, wanted, found, truth)
    was, now = (np.corrcoef(truth, answers[:, 0])[0, 1] for answers in (wanted, found))
    assert (told.reference_score, told.score) == (pytest.approx(was), pytest.approx(now))
    assert (told.loss_is, told.loss_points) == ("pearson", pytest.approx(100 * (was - now)))


@pytest.mark.parametrize("wrong", [0.2, np.nan])
def test_logits_that_are_too_far_apart_are_an_error(wrong):
    wanted = np.zeros((3, 2), dtype=np.float32)
    found = wanted.copy()
    found[1, 1] += wrong
    with pytest.raises(DisagreementError, match="at most 0\\.1 is allowed"):
        check_agreement(measure_agreement(SINGLE, wanted, found), "int8", 0.1)
