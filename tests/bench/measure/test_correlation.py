"""What numbers are judged by: Pearson's correlation, its interval, and what is lost of it between two models."""

import numpy as np
import pytest
from scipy.stats import bootstrap, pearsonr, spearmanr

from bench.measure.accuracy.correlation import compare_numbers, score_numbers
from bench.measure.accuracy.task_metric import changed_rows, format_metric, metric_value, paired_loss
from models.finetuning.pearson import pearson, varies

DRAW = np.random.default_rng(0)
TRUTH = (20 + 3 * DRAW.normal(size=200)).astype(np.float32)
REFERENCE = (TRUTH + DRAW.normal(size=200)).astype(np.float32)
OURS = (2 * TRUTH - 7 + 4 * DRAW.normal(size=200)).astype(np.float32)  # another unit changes no correlation


def test_pearson_equals_scipy():
    assert pearson(TRUTH, OURS) == pytest.approx(pearsonr(TRUTH, OURS).statistic, abs=1e-6)
    assert pearson(TRUTH, -TRUTH) == pytest.approx(-1)


@pytest.mark.parametrize("flat", [np.full(200, 21.3), np.full(200, 21.3, np.float32) + 1e-6 * DRAW.random(200)])
def test_numbers_that_do_not_vary_tell_nothing(flat):
    assert not varies(flat)
    assert pearson(TRUTH, flat) == 0.0
    assert score_numbers(TRUTH, flat).pearson_interval == (0, 0)
    assert not varies(np.zeros(0))


def test_a_score_has_both_correlations_and_the_distance():
    found = score_numbers(TRUTH, OURS)
    assert found.spearman == pytest.approx(spearmanr(TRUTH, OURS).statistic)
    assert found.rmse == pytest.approx(np.sqrt(np.mean((TRUTH - OURS) ** 2)), rel=1e-5)
    assert found.pearson_interval[0] < found.pearson < found.pearson_interval[1]


def test_the_interval_equals_the_bootstrap_of_scipy():
    found = compare_numbers(TRUTH, REFERENCE, OURS)

    def lost(truth, reference, ours):
        return 100 * (np.corrcoef(truth, reference)[0, 1] - np.corrcoef(truth, ours)[0, 1])

    wanted = bootstrap(
        (TRUTH, REFERENCE, OURS), lost, paired=True, vectorized=False, n_resamples=2000, method="BCa", rng=1
    ).confidence_interval
    assert found.metric == "pearson"
    assert found.loss_points == pytest.approx(100 * (pearson(TRUTH, REFERENCE) - pearson(TRUTH, OURS)))
    assert found.loss_interval == pytest.approx((wanted.low, wanted.high), abs=0.12 * (wanted.high - wanted.low))
    assert (found.mcnemar_p, found.flips, found.lost, found.won) == (None,) * 4


def test_memory_is_bounded_by_drawing_in_pieces(monkeypatch):
    whole = compare_numbers(TRUTH, REFERENCE, OURS)
    monkeypatch.setattr("bench.measure.accuracy.bootstrap.CELLS", 200 * 7)
    assert compare_numbers(TRUTH, REFERENCE, OURS).loss_interval == pytest.approx(whole.loss_interval)


def test_the_kind_decides_what_is_judged():
    assert metric_value("regression", TRUTH, OURS) == pearson(TRUTH, OURS)
    low, high = paired_loss("regression", TRUTH, REFERENCE, REFERENCE).loss_interval
    assert low < 0 < high  # 200 rows show no loss of nothing
    labels = np.array([0, 1, 1])
    assert metric_value("single", labels, np.array([0, 1, 0])) == pytest.approx(2 / 3)
    assert paired_loss("single", labels, labels, np.array([0, 1, 0])).lost == 1
    assert format_metric("accuracy", 0.9125) == "91.2%"
    assert format_metric("accuracy", 0.9125, 2) == "91.25%"
    assert format_metric("pearson", 0.9125) == "0.912"


def test_an_answer_changes_when_it_moves_by_more_than_a_hundredth_of_the_spread():
    moved = TRUTH.copy()
    moved[:5] += 0.02 * TRUTH.std()
    moved[5:9] += 0.005 * TRUTH.std()
    assert changed_rows("regression", TRUTH, moved) == 5
    assert changed_rows("single", np.array([0, 1]), np.array([1, 1])) == 1
