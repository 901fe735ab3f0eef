"""DriftDetector: says from yes-or-no observations, one at a time, when their rate has risen above a bound.

It may be asked after each observation, and the rate may rise at any time. A fixed test repeated so often would
certainly raise a false alarm.
"""

import math

from service.cascade.gate import GateInfo

# observations until a false alarm, on average at least, if the rate is at the bound; more if it is below
MEAN_RUN = 10_000
ODDS = (1.5, 2.0, 4.0)  # times the bound's odds: the rates that the detector looks for


def disagreement_bound(info: GateInfo) -> float | None:
    """Return the largest rate of disagreements with the student that is no drift, from the rows of gate.json.

    It is the upper limit (Clopper and Pearson, 1934) of the rate on the rows that the gate answered when its
    threshold was found: a higher rate in production cannot be explained by the small number of those rows.

    Returns:
        None if gate.json does not say how many there were, or if it says that all rows disagreed.
    """
    answered = round(info.share * info.rows)
    if info.disagreements is None or info.disagreements >= answered:
        return None
    return upper_limit(info.disagreements, answered, info.confidence)


def upper_limit(events: int, trials: int, confidence: float) -> float:
    """Return the rate for which so few events, or fewer, have the probability 1 - confidence."""
    low, high = events / trials, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        if _at_most(events, trials, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _at_most(events: int, trials: int, rate: float) -> float:
    """Return the probability of at most so many events (binomial distribution)."""
    logs = (
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        + k * math.log(rate) + (trials - k) * math.log1p(-rate)
        for k in range(events + 1)
    )  # fmt: skip
    return math.fsum(map(math.exp, logs))


class DriftDetector:
    """A CUSUM of likelihood ratios against each of several higher rates, whose mean is compared with `MEAN_RUN`.

    Page (1954) for the CUSUM; Shin, Ramdas and Rinaldo (2024, "E-detectors") for the guarantee. For a rate of at most
    the bound, the ratio of one observation has an expectation of at most 1. Such a CUSUM never exceeds the
    Shiryaev-Roberts statistic, whose excess over the number of observations is then a supermartingale: the expected
    number of observations until the mean of several reaches a level is at least that level.

    Args:
        bound: the largest rate that is not a drift, in (0, 1).
    """

    def __init__(self, bound: float) -> None:
        if not 0 < bound < 1:
            raise ValueError(f"the bound is {bound}: wanted a rate between 0 and 1")
        self.bound, self.drifts = bound, False
        self._steps = [(-math.log1p((m - 1) * bound), math.log(m)) for m in ODDS]  # without, and more with
        self._sums = [0.0] * len(ODDS)
        # so that after a drift that lasted long the alarm ends as soon as after a short one
        self._most = math.log(2 * MEAN_RUN * len(ODDS))

    def observe(self, happened: bool) -> bool:
        """Record an observation; return whether the alarm began or ended with it, as `drifts` then says.

        The alarm ends when the evidence is gone: the latest observations are as likely at the bound as above it.
        """
        for i, (step, more) in enumerate(self._steps):
            self._sums[i] = min(self._most, max(self._sums[i], 0.0) + step + (more if happened else 0.0))
        evidence = sum(map(math.exp, self._sums)) / len(self._sums)
        before = self.drifts
        self.drifts = evidence >= MEAN_RUN or (before and evidence >= 1.0)
        return self.drifts != before
