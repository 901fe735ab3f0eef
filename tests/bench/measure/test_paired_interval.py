"""Tango's interval of a difference of paired proportions: known values, and its coverage by enumeration."""

import itertools

import numpy as np
import pytest
from scipy.stats import multinomial, norm

from bench.measure.accuracy.paired_interval import paired_interval, rows_needed

Z2 = float(norm.ppf(0.975)) ** 2
COUNTS = [(lost, won, rows) for rows in (1, 2, 7, 20, 44, 872) for lost in range(0, rows + 1, max(1, rows // 7))
          for won in range(0, rows - lost + 1, max(1, rows // 5))]  # fmt: skip


@pytest.mark.parametrize("rows", [1, 2, 3, 20, 100, 872, 100_000])
def test_without_a_row_that_differs_the_bound_is_that_of_the_score_interval_of_nothing(rows):
    bound = Z2 / (rows + Z2)
    assert paired_interval(0, 0, rows) == pytest.approx((-bound, bound), abs=1e-9)


def test_a_published_value():
    """As R's PropCIs 0.3 gives it: scoreci.mp(25, 28, 618, conf.level = 0.90)."""
    assert paired_interval(28, 25, 618, level=0.90) == pytest.approx((-0.0148, 0.0247), abs=5e-5)


@pytest.mark.parametrize(("lost", "won", "rows"), [c for c in COUNTS if abs(c[0] - c[1]) < c[2]])
def test_both_bounds_are_roots_of_the_published_quartic(lost, won, rows):
    """Yang, Sun and Hardin (2013), "A non-iterative implementation of Tango's score confidence interval for a paired
    difference of proportions", Statistics in Medicine 32, 1336-1342: the equation, solved without iteration."""
    n, d, total, g = rows, lost - won, lost + won, Z2
    quartic = [
        n**2 * (n / g + 1) ** 2,
        -n * d * (n / g + 1) * (4 * n / g + 1),
        2 * n * d**2 * (3 * n / g + 2) / g - n**2 * (total / g + 1),
        n * d * (2 * total / g + 1) - d**3 * (4 * n / g + 1) / g,
        d**2 * (d**2 / g - total) / g,
    ]
    roots = np.roots(quartic)
    real = roots[np.abs(roots.imag) < 1e-4].real
    for bound in paired_interval(lost, won, rows):
        assert np.abs(real - bound).min() < 1e-5


@pytest.mark.parametrize(("lost", "won", "rows"), COUNTS)
def test_it_holds_the_estimate_is_symmetric_and_stays_in_range(lost, won, rows):
    low, high = paired_interval(lost, won, rows)
    assert -1 <= low <= (lost - won) / rows <= high <= 1
    assert low < high
    assert paired_interval(won, lost, rows) == pytest.approx((-high, -low), abs=1e-9)
    wide = paired_interval(lost, won, rows, level=0.99)
    assert wide[0] <= low
    assert wide[1] >= high


def test_more_rows_make_it_shorter_and_more_that_differ_longer():
    lengths = [np.ptp(paired_interval(0, 0, rows)) for rows in (10, 20, 100, 1000)]
    assert lengths == sorted(lengths, reverse=True)
    lengths = [np.ptp(paired_interval(n, n, 200)) for n in (0, 1, 5, 20, 100)]
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("counts", [(0, 0, 0), (-1, 0, 5), (0, -1, 5), (3, 3, 5)])
def test_counts_that_do_not_fit_are_refused(counts):
    with pytest.raises(ValueError, match="counts of the same rows"):
        paired_interval(*counts)


STEPS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)


def coverage(rows: int, steps=STEPS) -> np.ndarray:
    """Return the exact probability that the interval holds the difference, for a grid of chances to lose and win."""
    counts = [(a, b) for a in range(rows + 1) for b in range(rows + 1 - a)]
    low, high = np.array([paired_interval(a, b, rows) for a, b in counts]).T
    found = []
    for lose, win in itertools.product(steps, steps):
        if lose + win <= 1:
            cells = [(a, b, rows - a - b) for a, b in counts]
            chances = multinomial.pmf(cells, rows, [lose, win, max(0.0, 1 - lose - win)])
            truth = lose - win
            found.append(chances[(low <= truth + 1e-9) & (truth - 1e-9 <= high)].sum())
    return np.array(found)


@pytest.mark.parametrize(("rows", "least"), [(5, 0.918), (10, 0.924), (20, 0.943), (40, 0.928), (80, 0.941)])
def test_exact_coverage_on_few_rows(rows, least):
    """By enumeration: at worst 91.8 % on five rows, and at the mean more than 95 % always."""
    found = coverage(rows)
    assert found.min() == pytest.approx(least, abs=1e-3)
    assert found.mean() >= 0.95


@pytest.mark.parametrize("rows", [5, 20, 80])
def test_models_that_nearly_never_differ_are_covered(rows):
    """Where a percentile bootstrap gives no width, and so covers nearly never."""
    found = coverage(rows, steps=(0.001, 0.005, 0.01, 0.02))
    assert found.min() >= 0.94


@pytest.mark.parametrize("points", [0.1, 0.5, 1.0, 5.0, 20.0, 50.0])
def test_so_many_rows_and_no_fewer_leave_out_a_loss(points):
    rows = rows_needed(points)
    assert 100 * paired_interval(0, 0, rows)[1] <= points
    assert rows == 1 or 100 * paired_interval(0, 0, rows - 1)[1] > points


def test_rows_that_are_needed():
    assert [rows_needed(points) for points in (1.0, 0.5)] == [381, 765]
    assert rows_needed(1.0, level=0.9) == 268
    for points in (0.0, -1.0):
        with pytest.raises(ValueError, match="no number of rows"):
            rows_needed(points)
