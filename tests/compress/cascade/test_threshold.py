"""The threshold of a gate: the loss stays below the limit as often as promised, and it says what is missing."""

import numpy as np
import pytest

from compress.cascade.threshold import (
    Chosen,
    GateRows,
    NoThreshold,
    choose_threshold,
    path_of,
)

ROWS, LABELS = 300, 4
PATH = [(float(at),) for at in (0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)]


def world(generator: np.random.Generator, rows: int) -> GateRows:
    """Draw rows of a world with known risk: the student is right on 90 %, the gate as often as its confidence says.

    Confidences are uniform from 0.5 to 1, and gate and student err independently: at threshold t the gate answers
    2 (1 - t) of the texts and is right on (1 + t) / 2 of them.
    """
    truth = generator.integers(0, LABELS, rows)
    confidence = generator.uniform(0.5, 1, rows)
    wrong = (truth + 1) % LABELS
    label = np.where(generator.random(rows) < confidence, truth, wrong)
    student = np.where(generator.random(rows) < 0.9, truth, wrong)
    return GateRows(label, confidence, student, student, truth)


def true_loss(threshold: float) -> float:
    return 2 * (1 - threshold) * (0.9 - (1 + threshold) / 2)


def test_the_known_loss_exceeds_the_limit_in_at_most_five_percent_of_draws():
    limit, draws = 2.0, 200
    generator = np.random.default_rng(0)
    chosen = [choose_threshold(world(generator, ROWS), PATH, limit) for _ in range(draws)]
    losses = [100 * true_loss(one.thresholds[0]) for one in chosen if isinstance(one, Chosen)]
    exceeded = sum(loss > limit for loss in losses)
    assert exceeded <= 0.05 * draws + 2 * (0.05 * 0.95 * draws) ** 0.5
    assert max(map(true_loss, [one for (one,) in PATH])) > limit / 100  # there are thresholds that lose more
    assert len(losses) > draws / 2


def test_the_first_threshold_that_fails_ends_the_search():
    rows = world(np.random.default_rng(1), 3000)
    bad = (0.5,)  # loses 7.5 points
    found = choose_threshold(rows, [PATH[0], PATH[1], bad, PATH[2]], 2.0)
    assert isinstance(found, Chosen)
    assert found.thresholds == PATH[1]


def test_what_is_known_of_the_chosen_threshold():
    rows = world(np.random.default_rng(1), 3000)
    found = choose_threshold(rows, PATH, 2.0)
    assert isinstance(found, Chosen)
    assert found.share == rows.answered(found.thresholds).mean()
    lost, won = rows.counts(found.thresholds)
    assert (found.lost, found.won, found.rows) == (lost, won, 3000)
    assert (lost - won) / 3000 < found.bound() <= 0.0201
    different = rows.cascade(found.thresholds) != rows.student
    assert rows.disagreements(found.thresholds) == different.sum()


def test_too_few_rows_say_how_many_are_needed():
    found = choose_threshold(world(np.random.default_rng(0), 100), PATH, 0.5)
    assert isinstance(found, NoThreshold)
    assert "it takes 6" in found.problem  # about ln(20) / 0.005 = 600


def test_a_student_that_loses_too_much_itself_is_named():
    rows = world(np.random.default_rng(0), 2000)
    against = GateRows(rows.label, rows.confidence, rows.student, rows.truth, rows.truth)  # a perfect full model
    found = choose_threshold(against, PATH, 2.0)
    assert isinstance(found, NoThreshold)
    assert "the student loses them" in found.problem


def test_a_student_that_loses_a_little_less_than_allowed_needs_more_rows():
    rows = world(np.random.default_rng(0), 500)
    student = np.where(np.arange(500) < 50, rows.truth + 1, rows.truth)  # loses 10 points
    against = GateRows(rows.label, rows.confidence, student, rows.truth, rows.truth)
    found = choose_threshold(against, [(2.0,)], 11.0)
    assert isinstance(found, NoThreshold)
    needed = int(found.problem.split("about ")[1].split(" ")[0])
    assert 500 < needed < 20_000


def test_a_gate_that_hardly_answers_saves_nothing():
    found = choose_threshold(world(np.random.default_rng(0), 1000), [(0.99,), (0.5,)], 2.0)
    assert isinstance(found, NoThreshold)
    assert "saves nothing" in found.problem


def test_the_path_goes_from_strict_to_loose_in_even_steps():
    confidence = np.random.default_rng(0).random(1000)
    path = [one for (one,) in path_of(confidence)]
    assert path == sorted(path, reverse=True)
    assert len(path) == 100
    shares = [float((confidence >= one).mean()) for one in path]
    np.testing.assert_allclose(shares, np.arange(1, 101) / 100)


@pytest.mark.parametrize("thresholds", [(0.9,), (0.9,) * LABELS])
def test_one_threshold_is_the_same_as_an_equal_one_for_each_label(thresholds):
    rows = world(np.random.default_rng(0), 200)
    assert (rows.answered(thresholds) == (rows.confidence >= 0.9)).all()
