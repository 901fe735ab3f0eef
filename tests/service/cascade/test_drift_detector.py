"""The rule by which disagreements between gate and student are a drift: seldom a false alarm, and no long wait."""

import random
import statistics

import pytest

from service.cascade.drift_detector import MEAN_RUN, DriftDetector


def observed(detector, rate, most, seed):
    """Observe until the alarm begins; return the number of observations, `most` if it did not."""
    drawn = random.Random(seed)
    for n in range(1, most + 1):
        detector.observe(drawn.random() < rate)
        if detector.drifts:
            return n
    return most


@pytest.mark.parametrize("bound", [0.002, 0.02, 0.2])
def test_a_rate_at_the_bound_gives_a_false_alarm_seldom(bound):
    """The mean run is at least MEAN_RUN, and runs are about geometric, so a fifth of it passes in 8 of 10 runs."""
    quiet = [observed(DriftDetector(bound), bound, MEAN_RUN // 5, seed) == MEAN_RUN // 5 for seed in range(60)]
    assert sum(quiet) >= 48


def test_a_rate_below_the_bound_gives_none():
    assert all(observed(DriftDetector(0.03), 0.015, 20_000, seed) == 20_000 for seed in range(10))


@pytest.mark.parametrize(("bound", "rate", "within"), [(0.02, 0.06, 800), (0.02, 0.3, 60), (0.2, 0.4, 200)])
def test_a_rate_above_the_bound_is_found(bound, rate, within):
    assert statistics.median(observed(DriftDetector(bound), rate, 5000, seed) for seed in range(20)) <= within


def test_one_disagreement_is_no_drift_and_neither_are_two():
    detector = DriftDetector(0.01)
    assert not detector.observe(True)
    assert not detector.observe(True)
    assert not detector.drifts


def test_a_drift_is_found_as_soon_after_a_long_good_time():
    detector = DriftDetector(0.02)
    for _ in range(100_000):
        detector.observe(False)
    assert observed(detector, 0.06, 5000, 1) <= 1500


def test_the_alarm_ends_when_the_drift_does_however_long_it_was():
    after = []
    for length in (500, 50_000):
        detector = DriftDetector(0.02)
        changes = [detector.observe(True) for _ in range(length)]
        assert sum(changes) == 1
        assert detector.drifts
        after.append(next(n for n in range(10_000) if detector.observe(False)))
        assert not detector.drifts
    assert after[0] == after[1] <= 1500


@pytest.mark.parametrize("bound", [0.0, 1.0, -0.1])
def test_a_bound_that_is_no_rate_is_refused(bound):
    with pytest.raises(ValueError, match="between 0 and 1"):
        DriftDetector(bound)
