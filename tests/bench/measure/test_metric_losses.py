"""Losses in every metric: intervals that are valid where no row differs, what is `sure`, and labels that collapse."""

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import balanced_accuracy_score, f1_score

from bench.measure.accuracy.bootstrap import bca_interval
from bench.measure.accuracy.correlation import compare_numbers
from bench.measure.accuracy.difference import Difference
from bench.measure.accuracy.f1 import compare_f1, f1_of
from bench.measure.accuracy.label_recall import collapsed_labels, constant_answer
from bench.measure.accuracy.paired_interval import rows_needed
from bench.measure.accuracy.task_metric import CHOICES, choose_metric, format_metric, metric_value, paired_loss
from models.errors import InputError
from models.finetuning.informedness import chance_of, informedness

DRAW = np.random.default_rng(0)
TRUTH = DRAW.choice(3, 400, p=(0.7, 0.25, 0.05))


def noisy(truth, share, seed):
    draw = np.random.default_rng(seed)
    return np.where(draw.random(len(truth)) < share, truth, draw.integers(0, 3, len(truth)))


def imbalanced(rows, answers_right=1.0, seed=0):
    """Return labels of which one in twenty is 1, and answers to them."""
    truth = np.arange(rows) % 20 == 0
    wrong = np.random.default_rng(seed).random(rows) >= answers_right
    return truth.astype(np.int64), (truth ^ wrong).astype(np.int64)


def many_labels(rows=60, labels=100):
    """Return two of a hundred labels for each row."""
    truth = np.zeros((rows, labels), dtype=np.float32)
    for row in range(rows):
        truth[row, [row % labels, (row * 7 + 3) % labels]] = 1
    return truth


@pytest.mark.parametrize("metric", ["macro_f1", "micro_f1"])
def test_f1_is_that_of_scikit_learn(metric):
    ours = noisy(TRUTH, 0.8, 1)
    average = metric.removesuffix("_f1")
    assert f1_of(TRUTH, ours, metric) == pytest.approx(f1_score(TRUTH, ours, average=average))
    truth, ours = (np.random.default_rng(seed).random((50, 4)) < 0.3 for seed in (1, 2))
    assert f1_of(truth, ours, metric) == pytest.approx(f1_score(truth, ours, average=average, zero_division=0))


@pytest.mark.parametrize("wrong", [{"reference": 3}, {"ours": 3}])
def test_a_label_that_only_one_model_answers_costs_that_model(wrong):
    """The last label occurs in no row, and one of the two models answers a row with it."""
    answers = {name: TRUTH.copy() for name in ("reference", "ours")}
    for name, label in wrong.items():
        answers[name][0] = label
    lost = compare_f1(TRUTH, answers["reference"], answers["ours"], "macro_f1")
    scores = [f1_score(TRUTH, one, average="macro", labels=[0, 1, 2]) for one in answers.values()]
    assert lost.loss_points == pytest.approx(100 * (scores[0] - scores[1]))
    assert lost.loss_points != 0


@pytest.mark.parametrize(("kind", "metric"), [(kind, m) for kind, names in CHOICES.items() for m in names])
def test_no_row_that_differs_is_no_proof_on_few_rows(kind, metric):
    """The rule of three: of 20 rows none differs, and 15 of 100 texts may."""
    wide = {}
    for rows in (20, 2000):
        truth = {
            "single": imbalanced(rows)[0], "multi": many_labels(rows) > 0,
            "regression": np.linspace(0, 1, rows).astype(np.float32),
        }[kind]  # fmt: skip
        lost = paired_loss(kind, truth, truth, truth, metric)
        assert lost.loss_points == pytest.approx(0, abs=1e-9)
        low, wide[rows] = lost.loss_interval
        assert low < 0 < wide[rows]
        assert lost.verdict(wide[rows] * 1.01) == "sure"
        assert lost.verdict(wide[rows] * 0.9) == "likely"
        needed = lost.rows_needed(1.0)
        assert needed is not None
        assert (needed > rows) == (lost.verdict(1.0) != "sure")
    assert wide[20] > 7 > wide[2000]


def test_the_rows_that_it_takes_are_those_of_the_interval():
    truth = np.zeros(rows_needed(1.0), dtype=np.int64)
    assert paired_loss("single", truth, truth, truth).verdict(1.0) == "sure"
    fewer = paired_loss("single", truth[1:], truth[1:], truth[1:])
    assert (fewer.verdict(1.0), fewer.rows_needed(1.0)) == ("likely", len(truth))


def test_sure_wants_the_rows_even_where_ours_is_better():
    better = Difference(rows=20, loss_points=-40, loss_interval=(-60, -15))
    assert better.verdict(1.0) == "likely"
    assert better.verdict(0.0) == "sure"  # that it lost nothing is shown: no number of rows is wanted for it
    assert better.rows_needed(0.0) is None


def test_the_interval_is_that_of_scipy():
    reference, ours = noisy(TRUTH, 0.9, 1), noisy(TRUTH, 0.8, 2)

    def lost(truth, reference, ours):
        return 100 * (f1_of(truth, reference, "macro_f1") - f1_of(truth, ours, "macro_f1"))

    wanted = bootstrap(
        (TRUTH, reference, ours), lost, paired=True, vectorized=False, n_resamples=2000, method="BCa", rng=1
    ).confidence_interval
    found = compare_f1(TRUTH, reference, ours, "macro_f1")
    assert found.loss_interval == pytest.approx((wanted.low, wanted.high), abs=0.12 * (wanted.high - wanted.low))
    assert found.flips == (reference != ours).sum()


def test_a_macro_f1_interval_holds_the_true_loss_as_often_as_it_says():
    """Of a label with one row in twenty, a third is lost: the loss in a million rows is inside 95 % of intervals."""

    def draw(rows, seed):
        generator = np.random.default_rng(seed)
        truth = (generator.random(rows) < 0.05).astype(np.int64)
        reference = np.where(generator.random(rows) < 0.97, truth, 1 - truth)
        ours = np.where((truth == 1) & (generator.random(rows) < 0.33), 0, reference)
        return truth, reference, ours

    truth, reference, ours = draw(1_000_000, 0)
    true = 100 * (f1_of(truth, reference, "macro_f1") - f1_of(truth, ours, "macro_f1"))
    inside = 0
    for seed in range(1, 201):
        low, high = compare_f1(*draw(300, seed), "macro_f1").loss_interval
        inside += low <= true <= high
    assert inside >= 180  # 190 are expected, and three standard deviations are 9


def test_the_bootstrap_of_a_mean_is_close_to_the_normal_interval():
    values = np.random.default_rng(3).normal(5, 2, 400)
    low, high = bca_interval(
        lambda sums: sums[:, 1] / np.maximum(sums[:, 0], 1), np.stack([np.ones(400), values], axis=1)
    )
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05)


def test_correlations_that_differ_little_have_an_interval_as_wide_as_their_rows_are_few():
    truth = np.linspace(0, 1, 20).astype(np.float32)
    lost = compare_numbers(truth, truth, truth)
    share = 1.96**2 / (20 + 1.96**2)
    assert lost.loss_interval == pytest.approx(
        (-100 * (1 - np.sqrt(1 - share)), 100 * (1 - np.sqrt(1 - share))), rel=1e-3
    )


def test_the_metric_is_chosen_by_name():
    assert choose_metric("single", None) == "accuracy"
    assert choose_metric("single", "macro_f1") == "macro_f1"
    for kind, metric in (("single", "subset_accuracy"), ("regression", "macro_f1"), ("multi", "accuracy")):
        with pytest.raises(InputError, match=f"--metric is '{metric}': choose from .* for a {kind} task"):
            choose_metric(kind, metric)
    truth, answers = imbalanced(100, 0.9)
    wanted = f1_score(truth, answers, average="macro")
    assert metric_value("single", truth, answers, "macro_f1") == pytest.approx(wanted)
    assert format_metric("macro_f1", 0.9125) == "0.912"


def test_the_answer_of_most_rows_loses_little_accuracy_and_much_macro_f1():
    truth, reference = imbalanced(400)
    constant = np.zeros_like(truth)
    assert paired_loss("single", truth, reference, constant).loss_points == pytest.approx(5)
    lost = paired_loss("single", truth, reference, constant, "macro_f1")
    assert lost.loss_points == pytest.approx(100 - 100 * f1_score(truth, constant, average="macro"))
    assert lost.verdict(5.0) == "outside"


def test_a_label_that_is_lost_is_named_and_one_that_loses_a_row_is_not():
    truth, reference = imbalanced(400)
    half = reference.copy()
    half[np.flatnonzero(truth)[:11]] = 0
    (lost,) = collapsed_labels(("usual", "rare"), truth, reference, half)
    assert lost.sentence() == "label 'rare' is found in 9 of 20 rows, by the full model in 20"
    assert collapsed_labels(("usual", "rare"), truth, reference, reference) == ()
    half[np.flatnonzero(truth)[:3]] = 1
    assert collapsed_labels(("usual", "rare"), truth, reference, half) == ()
    few, _ = imbalanced(20)
    assert [one.label for one in collapsed_labels(("usual", "rare"), few, few, 0 * few)] == ["rare"]


def test_every_lost_label_of_many_is_named():
    truth = many_labels()
    none = np.zeros_like(truth)
    names = [f"label {i}" for i in range(100)]
    lost = collapsed_labels(names, truth, truth > 0, none > 0)
    assert {one.label for one in lost} == {names[i] for i in np.flatnonzero(truth.any(axis=0))}


def test_answers_that_ignore_the_text_tell_nothing_however_often_they_are_right():
    truth, answers = imbalanced(400, 0.9)
    assert informedness(truth, truth) == 1
    assert informedness(truth, np.zeros_like(truth)) == 0
    assert informedness(truth, answers) == pytest.approx(2 * balanced_accuracy_score(truth, answers) - 1)
    assert abs(informedness(truth, np.random.default_rng(1).permutation(truth))) < 0.15
    labels = many_labels()
    assert (informedness(labels, labels), informedness(labels, 0 * labels)) == (1, 0)
    assert informedness(np.ones(5), np.ones(5)) == 0


def test_a_permutation_test_tells_answers_from_chance():
    truth, answers = imbalanced(20)
    assert chance_of(truth, answers) == pytest.approx(1 / 20, abs=0.02)  # the one row in twenty, found by luck
    assert chance_of(truth, np.zeros_like(truth)) == 1
    truth, answers = imbalanced(400, 0.9)
    assert chance_of(truth, answers) == 0.001
    assert chance_of(TRUTH, np.random.default_rng(1).permutation(TRUTH)) > 0.01
    assert chance_of(TRUTH, np.full(400, 7)) == 1
    labels = many_labels()
    assert (chance_of(labels, labels > 0), chance_of(labels, labels > 1)) == (0.001, 1)


def test_a_constant_answer_is_called_by_its_name():
    assert constant_answer(("a", "b"), np.zeros(5, dtype=np.int64)) == "'a'"
    assert constant_answer(("a", "b"), np.array([0, 1])) is None
    assert constant_answer(("a", "b"), np.zeros((5, 2), dtype=bool)) == "no label"
    assert constant_answer(("a", "b"), np.ones((5, 2), dtype=bool)) == "'a' and 'b'"
