"""Confidence interval of the difference of two models' accuracies on the same rows (paired proportions)."""

LEVEL = 0.95


def paired_interval(lost: float, won: float, rows: int, level: float = LEVEL) -> tuple[float, float]:
    """Return Tango's asymptotic score interval of (lost - won) / rows, as fractions.

    Unlike a percentile bootstrap or a Wald interval, it has a width when no row differs (0 of n rows gives
    ±z²/(n + z²), which for 95 % is close to the "rule of three"), and it keeps its coverage on few rows. Fagerland,
    Lydersen and Laake (2014) recommend it, with Newcombe's, for paired proportions. Newcombe's depends on how many of
    the agreeing rows are right, which says nothing about the difference, and becomes very short at an accuracy of
    one half.

    Args:
        lost: Rows that the reference answers right and the candidate wrong.
        won: Rows that the candidate answers right and the reference wrong. Both may be means over several pairs.
        rows: Number of all rows, at least 1.
        level: Confidence of the two-sided interval.

    Raises:
        ValueError: The counts are negative, or more than `rows`.

    Source: Tango (1998), "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17, 891-908, equations 13 and 14.
    """
    from scipy.optimize import brentq

    if rows < 1 or lost < 0 or won < 0 or lost + won > rows:
        raise ValueError(f"{lost} rows lost and {won} won of {rows}: counts of the same rows were expected")
    z = _quantile(level)
    estimate = (lost - won) / rows

    def beyond(difference: float, bound: float) -> float:
        """Return how far the score statistic at this difference is above `bound`."""
        return _score(lost, won, rows, difference) - bound

    low = -1.0 if estimate == -1 else float(brentq(beyond, -1 + 1e-12, estimate, args=(z,)))
    high = 1.0 if estimate == 1 else float(brentq(beyond, estimate, 1 - 1e-12, args=(-z,)))
    return low, high


def unseen_share(rows: float, level: float = LEVEL) -> float:
    """Return the largest share of texts, 0 to 1, on which two models may differ if they agree on all of `rows` rows.

    It is the upper bound z²/(n + z²) of Tango's interval at 0 discordant rows.
    """
    z2 = _quantile(level) ** 2
    return z2 / (rows + z2)


def rows_needed(points: float, level: float = LEVEL) -> int:
    """Return the fewest rows that show, if no answer differs on them, that two models differ by at most `points`.

    The upper bound at 0 discordant of n rows is z²/(n + z²).

    Raises:
        ValueError: `points` is not above 0.
    """
    if points <= 0:
        raise ValueError(f"points is {points:g}: wanted more than 0, no number of rows shows that models are equal")
    z2 = _quantile(level) ** 2
    return int(-(-z2 * (1 - points / 100) // (points / 100)))


def _quantile(level: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(0.5 + level / 2))


def _score(lost: float, won: float, rows: int, difference: float) -> float:
    """Return Tango's statistic: how many standard errors the counts are above those expected at `difference`."""
    linear = -lost - won + (2 * rows - lost + won) * difference
    constant = -won * difference * (1 - difference)
    # P(won) under the hypothesis: the nuisance parameter
    p_won = ((linear * linear - 8 * rows * constant) ** 0.5 - linear) / (4 * rows)
    variance = rows * (2 * p_won + difference * (1 - difference))
    gap = lost - won - rows * difference
    return gap / variance**0.5 if variance > 0 else (0.0 if gap == 0 else float("inf") if gap > 0 else float("-inf"))
