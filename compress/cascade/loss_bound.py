"""Upper limits of a paired loss that hold on any number of rows: an exact test that one model is not worse.

On each row the candidate loses (the reference was right and the candidate is not), wins, or changes nothing. The
numbers of lost and won rows are trinomial, and the loss is P(lost) - P(won). `p_value` tests the hypothesis that the
loss is above a limit, without an approximation: it is the largest probability, over all rates of won rows that the
rows do not exclude, of a result that speaks as strongly against the hypothesis as the one that was found.

Source: the exact unconditional test of non-inferiority for paired proportions (Hsueh, Liu and Chen 2001,
"Unconditional exact tests for equivalence or noninferiority for paired binary endpoints", Biometrics 57) with Tango's
score statistic, and the restriction of the nuisance parameter of Berger and Boos (1994).
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

EXCLUDED = 1e-3  # Berger and Boos: probability that the rate of won rows is outside of the tested ones
CELLS = 256  # intervals into which the tested rates of won rows are divided
FEW_CELLS = 32  # for a first look: a divisor of CELLS, so that the p-value is never below the one of CELLS
CLEAR = 2  # a p-value of the first look that is so many times too high will not become low enough
TAIL = 1e-7  # probability of numbers of won rows that are not added up; it is added to the p-value


@lru_cache(maxsize=2**16)
def shows(lost: int, won: int, rows: int, limit: float, level: float) -> bool:
    """Return whether the rows show, with confidence `level`, that the loss is at most `limit`.

    Args:
        lost: see `p_value`, as for `won`, `rows` and `limit`.
        won: see `p_value`.
        rows: see `p_value`.
        limit: see `p_value`.
        level: such as 0.95: then a loss above the limit is accepted with a probability of at most 0.05.
    """
    first = p_value(lost, won, rows, limit, FEW_CELLS)
    if first <= 1 - level or first > CLEAR * (1 - level):
        return first <= 1 - level
    return p_value(lost, won, rows, limit) <= 1 - level


def p_value(lost: int, won: int, rows: int, limit: float, cells: int = CELLS) -> float:
    """Return the p-value of the hypothesis that the loss is above `limit`.

    Args:
        lost: rows that the reference answers right and the candidate wrong.
        won: rows that the candidate answers right and the reference wrong.
        rows: number of all rows, drawn independently.
        limit: of the loss, as a fraction of the rows, above 0 and below 1.
        cells: more give a slightly smaller p-value, and take longer.

    Returns:
        A number p such that P(p <= u) <= u for every u if the loss is `limit` or more.

    Raises:
        ValueError: the counts are negative or more than `rows`, or the limit is not between 0 and 1.
    """
    if rows < 1 or lost < 0 or won < 0 or lost + won > rows or not 0 < limit < 1:
        raise ValueError(
            f"{lost} rows lost and {won} won of {rows}, limit {limit}: wanted counts and a limit in (0, 1)"
        )
    from scipy.stats import beta

    low = 0.0 if won == 0 else float(beta.ppf(EXCLUDED / 2, won, rows - won + 1))
    high = 1.0 if won == rows else float(beta.ppf(1 - EXCLUDED / 2, won + 1, rows - won))
    most = (1 - limit) / 2  # P(won) where P(lost) = P(won) + limit and both are all
    edges = np.linspace(min(low, most), min(high, most), cells + 1)
    return min(1.0, _largest_tail(lost, won, rows, limit, edges) + EXCLUDED + TAIL)


def upper_limit(lost: int, won: int, rows: int, level: float) -> float:
    """Return the smallest limit, as a fraction, for which the rows show that the loss is at most that."""
    low, high = 0.0, 1.0
    while high - low > 1e-5:
        middle = (low + high) / 2
        if shows(lost, won, rows, middle, level):
            high = middle
        else:
            low = middle
    return high


def fewest_rows(limit: float, level: float) -> int:
    """Return the fewest rows that show that the loss is at most `limit` (a fraction) if none is lost or won."""
    rows = math.ceil(math.log(1 - level) / math.log1p(-limit))  # needed if the rate of won rows were known to be 0
    while not shows(0, 0, rows, limit, level):
        rows += max(1, rows // 200)
    return rows


def _largest_tail(lost: int, won: int, rows: int, limit: float, edges: NDArray[np.float64]) -> float:
    """Return an upper limit of the probability of a result at least as extreme, over rates of won rows in the cells.

    The region of these results grows with the won rows and shrinks with the lost ones. So within a cell its
    probability is at most that at the highest rate of won rows with the lowest rate of lost ones.
    """
    from scipy.stats import binom

    p_won, p_lost = edges[1:], edges[:-1] + limit
    first = int(binom.ppf(TAIL / 2, rows, p_won[0]))
    last = int(binom.isf(TAIL / 2, rows, p_won[-1])) + 1
    counts = np.arange(max(first, 0), min(last, rows) + 1)
    most_lost = _most_lost(_statistic(lost, won, rows, limit), counts, rows, limit)
    share = np.minimum(p_lost / np.maximum(1 - p_won, 1e-300), 1.0)
    chances = binom.pmf(counts, rows, p_won[:, None])
    chances *= binom.cdf(most_lost, rows - counts, share[:, None])
    return float(chances.sum(axis=1).max())


def _most_lost(statistic: float, won: NDArray[np.int64], rows: int, limit: float) -> NDArray[np.int64]:
    """Return for each number of won rows the largest number of lost ones whose statistic is at most `statistic`.

    -1 where there is none. The result does not fall with the won rows: a larger region only raises the p-value.
    """
    low, high = np.full(len(won), -1), rows - won + 1  # the statistic of `low` is small enough, that of `high` is not
    while (high - low).max() > 1:
        middle = np.maximum((low + high) // 2, 0)
        small = _statistics(middle, won, rows, limit) <= statistic + 1e-9
        low, high = np.where(small & (high - low > 1), middle, low), np.where(small | (high - low <= 1), high, middle)
    return np.maximum.accumulate(low)


def _statistic(lost: int, won: int, rows: int, limit: float) -> float:
    return float(_statistics(np.array([lost]), np.array([won]), rows, limit)[0])


def _statistics(lost: NDArray[np.int64], won: NDArray[np.int64], rows: int, limit: float) -> NDArray[np.float64]:
    """Return Tango's statistic: how many standard errors the loss is above `limit`, of each pair of counts."""
    linear = -lost - won + (2 * rows - lost + won) * limit
    constant = -won * limit * (1 - limit)
    p_won = (np.sqrt(linear * linear - 8 * rows * constant) - linear) / (4 * rows)
    variance = rows * (2 * p_won + limit * (1 - limit))
    return np.asarray((lost - won - rows * limit) / np.sqrt(np.maximum(variance, 1e-300)))
