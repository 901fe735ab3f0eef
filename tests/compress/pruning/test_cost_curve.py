"""How few widths of a sublayer are measured, and what the others are said to cost."""

import numpy as np
import pytest

from compress.pruning.quality_loss import cost_curve

WIDTHS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
ERRORS = {width: (1 - width / 12) ** 2 for width in WIDTHS}


def measured(costs: dict[int, float]) -> tuple[dict[int, float], list[int]]:
    """Return the curve, and the widths that were measured for it."""
    asked: list[int] = []

    def measure(width: int) -> float:
        asked.append(width)
        return costs[width]

    return cost_curve(ERRORS, measure), asked


def test_of_a_smooth_curve_four_widths_are_measured_and_the_others_are_right():
    true = {width: 3.0 * error**1.2 for width, error in ERRORS.items()} | {0: 50.0}
    found, asked = measured(true)
    assert sorted(asked) == [0, 1, 6, 11]
    assert found == pytest.approx(true, rel=1e-6)
    assert list(found) == list(WIDTHS)
    assert found[12] == 0.0


def test_where_the_curve_bends_it_is_measured():
    true = {width: 3.0 * error for width, error in ERRORS.items()}
    true |= {width: true[width] * 20 for width in (2, 3, 4, 5, 6)}
    found, asked = measured(true)
    assert {2, 3, 4, 5, 6} <= set(asked)
    assert found == pytest.approx(true, rel=0.35)


def test_every_width_of_a_wild_curve_is_measured():
    values = np.random.default_rng(0).permutation(12)
    true = {width: float(10.0**value) for width, value in zip(WIDTHS, values, strict=False)} | {12: 0.0}
    found, asked = measured(true)
    assert len(asked) == len(set(asked)) >= 10
    assert all(found[width] == true[width] for width in asked)


def test_widths_that_lose_nothing_are_not_measured():
    assert cost_curve({0: 0.0, 4: 0.0}, lambda width: 1 / 0) == {0: 0.0, 4: 0.0}
    assert cost_curve({0: 1.0, 4: 0.0}, lambda width: 7.0) == {0: 7.0, 4: 0.0}


def test_a_cost_of_zero_is_no_logarithm_of_zero():
    found, _ = measured(dict.fromkeys(WIDTHS, 0.0))
    assert all(0.0 <= cost <= 1e-9 for cost in found.values())
